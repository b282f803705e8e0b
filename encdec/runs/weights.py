"""Weights that a training begins with, without the state of the training that made them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from encdec.data.fingerprints import DataIdentity, PresentData, identity_in
from encdec.files import sha256
from encdec.messages import say
from encdec.paradigms import Paradigm
from encdec.runs import checkpoints, history, identity
from encdec.types import UserError

FILE, DIGEST = "weights", "weights_sha256"
"""The settings of a run that name the file, and say what it held."""


@dataclass(frozen=True)
class Weights:
    """A checkpoint or an export, of which only the weights are used.

    Attributes:
        path: of the file.
        digest: SHA-256 of the file, in hexadecimal.
        contents: of the file.
    """

    path: Path
    digest: str
    contents: dict[str, Any]

    @classmethod
    def read(cls, path: Path, digest: str) -> Self:
        """The weights in a file.

        Raises:
            UserError: it is no checkpoint and no export, is damaged, or is not the file that a run has begun with.
        """
        contents, found = checkpoints.read_checkpoint(path), digest_of(path)
        if found != digest:
            raise UserError(
                f"{path} is not the file that is asked for: its SHA-256 is {found}, but {DIGEST} is {digest}. Restore "
                "that file, or begin a new run with this one."
            )
        return cls(path, digest, contents)

    @property
    def data(self) -> DataIdentity | None:
        """On which images the model was trained; None if the file does not say."""
        return identity_in(self.contents, self.path)

    def history(self) -> list[str]:
        """What happened to the weights before, and where they are from, as sentences."""
        name = str(self.contents["hyper_parameters"]["_class_path"]).rpartition(".")[2]
        step = self.contents["global_step"]
        entry = f"began with the weights of a {name} at step {step} ({self.path.name[-100:]}, SHA-256 {self.digest})"
        return [*history.in_checkpoint(self.contents), entry]

    def check(self, data: PresentData, settings: Mapping[str, Any]) -> list[str]:
        """Check that the model was not trained on images that the run is validated or tested on.

        Returns:
            How its settings and data differ from those of the call, which may be meant; not those of its training.

        Raises:
            UserError: it was.
        """
        held = identity.of_checkpoint(self.contents)
        held.pop("data", None)
        for name in identity.TRAINING_ONLY:
            held["model"]["init_args"].pop(name, None)
        return [
            *identity.differences(held, settings),
            *identity.data_differences(self.contents, settings),
            *identity.check_held_out(self.path, self.contents, data, settings, "val", "test"),
        ]

    def load(self, model: Paradigm, data: PresentData) -> str | None:
        """Give a model these weights.

        What belongs to each training image, such as a table of latents, is taken where the training images are the
        same, and for an assignment of latents that are drawn by a seed, the seed too.

        Returns:
            What was left out and why, as a sentence; None where nothing was.

        Raises:
            UserError: the weights are those of another model, by name, shape and kind of number, or not finite.
        """
        reason = self._images_differ(data)
        left_out = dict.fromkeys(
            (f"{name}." for name, part in model.named_modules() if getattr(part, "of_each_image", False)), reason
        )
        if not reason and self.contents["hyper_parameters"].get("seed") != model.seed:
            drawn = (name for name, part in model.named_modules() if getattr(part, "of_seed", False))
            left_out |= dict.fromkeys((f"{name}." for name in drawn), "the seed that they are drawn by is another")
        leave_out = tuple(name for name, why in left_out.items() if why)
        checkpoints.check_fits(model, self.contents, self.path, leave_out)
        weights = self.contents["state_dict"]
        model.load_state_dict({k: v for k, v in weights.items() if not k.startswith(leave_out)}, strict=False)
        if not leave_out:
            return None
        return (
            f"the latents of training images in {self.path} are not taken, because {left_out[leave_out[0]]}: "
            f"{type(model).__name__}'s begin anew, with its networks as they were trained."
        )

    def announce(self, differing: list[str], left_out: str | None) -> None:
        """Say what a training begins with."""
        otherwise = f", which was made otherwise: {'; '.join(differing)}" if differing else ""
        say(f"begins with the weights of {self.path}, from step {self.contents['global_step']}{otherwise}.")
        if left_out is not None:
            say(left_out)

    def _images_differ(self, data: PresentData) -> str:
        """Why what belongs to each training image can't be taken; empty where it can."""
        if self.data is None:
            return "it does not say which images they belong to"
        return "the training images are others" if data.identity.differs(self.data, "train") else ""


def beside_a_checkpoint() -> UserError:
    """The error for a call that names both weights and a checkpoint to go on from."""
    return UserError(
        "--ckpt_path goes on with a training's weights and its state, --weights begins with weights alone: give one of "
        "them, or --weights null.",
        2,
    )


def digest_of(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        UserError: there is no such file, or it can't be read.
    """
    checkpoints.require_file(path)
    try:
        return sha256(Path(path))
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror or error}).") from error

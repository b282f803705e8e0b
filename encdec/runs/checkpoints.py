"""Reading checkpoints, and what was exported from them: weights and plain values only, never code."""

import contextlib
import hashlib
import json
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from safetensors import safe_open
from torch import Tensor

from encdec import plugins
from encdec.data.fingerprints import KEY
from encdec.files import expanded, written_whole
from encdec.formats import WRITTEN_BY_KEY
from encdec.paradigms import Paradigm
from encdec.runs import build, trust, version_0_1
from encdec.runs import contents as contents
from encdec.signatures import parameters
from encdec.text import word
from encdec.types import UserError

ENDING = ".ckpt"
METADATA_KEY = "encdec"
"""Under which a safetensors file holds JSON: all but the weights."""
_INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"
_LONGEST_METADATA = 20_000_000
"""Characters; a data set of a million images takes as many."""
_CALLED = re.compile(
    r"collections (OrderedDict|Counter)|torch(\.storage)? \w*Storage|"
    r"torch\._utils _rebuild_(tensor(_v[23])?|parameter)|"
    r"torch(\.nn\.parameter)? (Size|device|Parameter|bool|(bfloat|float|u?int|complex)\w*)"
)
"""What PyTorch writes for dictionaries, tensors and what is said about them."""
_ZIP, _OLD_TORCH = b"PK\x03\x04", b"\x80\x02"


class CheckpointIO(TorchCheckpointIO):
    """Writes checkpoints that are there whole or not at all, and reads no code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; what was there before is replaced when the new one was found to be good.

        Raises:
            UserError: it can't be written, for example because the disk is full.
        """
        with written_whole(Path(path), read_back) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # what torch makes of an error of the disk
                raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from None

    def load_checkpoint(
        self, path: str | PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See `read_checkpoint`; there is no way to ask for less caution."""
        return read_checkpoint(path)

    def remove_checkpoint(self, path: str | PathLike[str]) -> None:
        """Delete a checkpoint, and never anything else: a resumed run has this path from a file."""
        if Path(path).suffix == ENDING and Path(path).is_file():
            Path(path).unlink()


def read_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """The contents of a checkpoint that encdec wrote or exported, on the CPU; weights are read when they are used.

    An exported one has all but the state of the training: `state_dict`, `hyper_parameters`, `metrics`, `epoch`, …

    Raises:
        UserError: there is no such file, or it is damaged, foreign, from a newer encdec, or holds more than weights
            and plain values.
    """
    path = expanded(path)
    require_file(path)
    exported = _verify(path)
    try:
        if exported is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about what a stranger's file looks like
                # an explicit True: without it, an environment variable could make torch run code
                checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:
            checkpoint = exported
        contents.check(checkpoint, path)
        if version_0_1.is_old(checkpoint):
            checkpoint = version_0_1.converted(checkpoint)
    except UserError:
        raise
    except Exception as error:  # a hostile file raises nearly anything
        raise UserError(
            f"{path} can't be read as a checkpoint: it is foreign, or holds code ({type(error).__name__}); "
            f"{contents.INSTEAD}."
        ) from error
    assert isinstance(checkpoint, dict)
    return checkpoint


def require_file(path: str | PathLike[str]) -> None:
    """Check that there is a checkpoint on this machine's disk.

    Raises:
        UserError: there is no such file, or it is an address.
    """
    try:
        found = Path(path).is_file()
    except OSError:  # a name that is too long
        found = False
    if not found and trust.is_address(str(path)):
        raise UserError(f"{str(path)!r} is an address, but a checkpoint is read from a file: download it first.", 2)
    if not found:
        inside = in_folder(Path(path))
        what = (
            "give the path of a .ckpt file that `fit` wrote." if inside is None else f"it is a folder; give {inside}."
        )
        raise UserError(f"There is no checkpoint {str(path)!r}: {what}", 2)


def in_folder(folder: Path) -> Path | None:
    """A checkpoint in a folder of a run, or of checkpoints, the best if there is one; None if there is none."""
    with contextlib.suppress(OSError):  # a name that is too long
        names = [place / f"{name}{ENDING}" for place in (folder / "checkpoints", folder) for name in ("best", "last")]
        return next((path for path in names if path.is_file()), None)
    return None


def no_checkpoint(command: str, given: str = "") -> UserError:
    """The error for a command that measures a model but is given none; `given` is a word that belongs to no option."""
    if not given:
        return UserError(f"{command} needs a trained model: give --ckpt_path FILE.", 2)
    file = in_folder(Path(given)) or (given if Path(given).suffix == ENDING else "FILE")
    return UserError(f"{command} takes options alone, and {given!r} belongs to none: give --ckpt_path {word(file)}.", 2)


def verify(path: str | PathLike[str]) -> None:
    """Check that a file is a whole checkpoint or a whole export: that its bytes are those that were written.

    Raises:
        UserError: it is not; the sentence names the record that is damaged.
    """
    _verify(path)


def read_back(path: Path) -> None:
    """`verify`, for a file that was just written.

    Raises:
        OSError: it is not whole.
    """
    try:
        verify(path)
    except UserError as error:
        raise OSError("what was written can't be read back") from error


def paradigm_class(checkpoint: dict[str, Any], path: str | PathLike[str]) -> type[Paradigm]:
    """The paradigm that a checkpoint holds, looked up among those that encdec and its plugins define.

    Raises:
        UserError: it is not among them.
    """
    name = checkpoint["hyper_parameters"]["_class_path"]
    classes = plugins.subclasses(Paradigm)
    for known in classes:
        if known is trust.named(name) or known.__name__ == name:
            return known
    raise UserError(
        f"{path} holds a {trust.shown(name)}, which is none of the paradigms known here "
        f"({', '.join(sorted(known.__name__ for known in classes))}): put the plugin that defines it into ./plugins."
    )


def load_paradigm(path: str | PathLike[str]) -> Paradigm:
    """See `encdec.load`."""
    plugins.load()
    checkpoint = read_checkpoint(path)
    known = paradigm_class(checkpoint, path)
    hparams = checkpoint["hyper_parameters"]
    trust.check_size(hparams, str(path))
    if hparams.get("_instantiator", _INSTANTIATOR) != _INSTANTIATOR:
        raise UserError(
            f"{path} wants to be built by {trust.shown(hparams['_instantiator'])}, which encdec never does."
        )
    settings = {name: value for name, value in hparams.items() if not name.startswith("_")}
    try:
        _check_size(known, settings, checkpoint, path)
        paradigm = build.build(known, settings)
        check_fits(paradigm, checkpoint, path)
        paradigm.on_load_checkpoint(checkpoint)
        paradigm.load_state_dict(checkpoint["state_dict"])
    except UserError:
        raise
    except build.UnfitError as error:
        raise UserError(
            f"{path} does not fit the {known.__name__} that is known here: {error}. Another version may have written "
            "it, or a plugin that it needs is not in ./plugins."
        ) from error
    except Exception as error:  # of the constructor, with settings that it was never meant for
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} does not fit the {known.__name__} that is known here: {reason}") from error
    paradigm.hparams.update(hparams)
    paradigm.not_rebuildable.clear()  # the checkpoint's own settings rebuild it
    return paradigm.eval()


def check_described(model: Mapping[str, Any], checkpoint: dict[str, Any], path: str | PathLike[str]) -> None:
    """Check that a checkpoint has the parameters of the model that a config describes, before it takes any memory.

    Args:
        model: `class_path` and `init_args`; sizes that it does not say are the checkpoint's.
        checkpoint: the contents.
        path: of the checkpoint, for the errors.

    Raises:
        UserError: they are of another size.
    """
    known = paradigm_class(checkpoint, path)
    accepted, held = parameters(known), checkpoint["hyper_parameters"]
    settings = {name: value for name, value in held.items() if name in accepted} | dict(model.get("init_args") or {})
    with contextlib.suppress(build.UnfitError):  # what the parser takes and a checkpoint could not hold
        _check_size(known, settings, checkpoint, path)


def _check_size(
    known: type[Paradigm], settings: dict[str, Any], checkpoint: dict[str, Any], path: str | PathLike[str]
) -> None:
    """Compare the weights with the model that the settings describe before it takes any memory."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes that do not fit, which follow
            described = build.build(known, settings)
    except (UserError, build.UnfitError):
        raise
    except Exception:  # a constructor that looks at numbers, which are not there
        return
    _check_kinds(checkpoint, described.state_dict(), path)


def check_fits(
    paradigm: Paradigm, checkpoint: dict[str, Any], path: str | PathLike[str], leave_out: tuple[str, ...] = ()
) -> None:
    """Check that a checkpoint's weights are those of a paradigm, by name, shape and kind of number.

    Args:
        paradigm: whose they must be.
        checkpoint: the contents.
        path: of the checkpoint, for the errors.
        leave_out: beginnings of the names that are not compared.

    Raises:
        UserError: they are not, or not finite; it names the first.
    """
    held, wanted = (
        {name: weight for name, weight in state.items() if not name.startswith(leave_out)}
        for state in (checkpoint["state_dict"], paradigm.state_dict())
    )
    _check_kinds({"state_dict": held}, wanted, path, all_of_them=True)
    for name, weight in held.items():
        if weight.is_floating_point() and not weight.isfinite().all():
            raise UserError(f"{path} holds weights that are not finite ({name}): take a checkpoint from before.")


def _check_kinds(
    checkpoint: dict[str, Any], tensors: dict[str, Tensor], path: str | PathLike[str], all_of_them: bool = False
) -> None:
    """Check that a checkpoint has tensors, by name, shape and kind of number, and if they are all, has no other."""
    held, wanted = (
        {name: _kind(tensor) for name, tensor in state.items()} for state in (checkpoint["state_dict"], tensors)
    )
    for name in sorted(held.keys() | wanted.keys() if all_of_them else wanted):
        if held.get(name) != wanted.get(name):
            raise UserError(
                f"{path} does not fit the model that the config describes: {trust.shown(name)} is "
                f"{held.get(name, 'missing')} in the checkpoint and {wanted.get(name, 'missing')} in the model; "
                "give the config it was made with."
            )


def check_images(checkpoint: dict[str, Any], shape: Sequence[int], data: str, path: str | PathLike[str]) -> None:
    """Check that a checkpoint's model makes images of a shape.

    Args:
        checkpoint: the contents.
        shape: of the images, (C, H, W).
        data: the name of their data set.
        path: of the checkpoint, for the error.

    Raises:
        UserError: it makes others.
    """
    trained = checkpoint["hyper_parameters"].get("image_shape")
    if trained is not None and list(trained) != list(shape):
        held, given = ("×".join(map(str, one)) for one in (trained, shape))
        raise UserError(
            f"{path} was trained on images of {held}, but those of {data} are {given} (channels × height × width): "
            "give data of that shape.",
            2,
        )


def digest(metadata: dict[str, Any], weights: dict[str, Tensor]) -> str:
    """SHA-256 of all that an export holds: safetensors has no checksum of its own."""
    found = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(weights):
        weight = weights[name].detach().contiguous()
        found.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        found.update(weight.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _verify(path: str | PathLike[str]) -> dict[str, Any] | None:
    """See `verify`; gives the contents of an export, which can't be checked without reading them."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(9)
        if head.startswith(_ZIP):
            _check_records(path)
            return None
        if head.startswith(_OLD_TORCH):
            raise UserError(f"{path} has the format that PyTorch used until 2020, which encdec does not read.")
        if head[8:] == b"{":
            return _read_export(path)
        raise UserError(f"{path} is no checkpoint, or its beginning is damaged; {contents.INSTEAD}.")
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror or error}).") from error
    except Exception as error:  # a broken file raises nearly anything
        raise UserError(
            f"{path} is damaged: it is truncated or changed ({type(error).__name__}); {contents.INSTEAD}."
        ) from error


def _kind(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" of {tensor.dtype}"  # a run in another precision does fit
    return f"{tuple(tensor.shape)}{kind}"


def _check_records(path: str | PathLike[str]) -> None:
    """Check the checksum of every record: torch does not, where it maps a file into memory."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        packed = [record for record in records if record.compress_type != zipfile.ZIP_STORED]
        # torch writes records as they are: anything else could unpack to more than there is memory
        if packed or sum(record.file_size for record in records) > Path(path).stat().st_size:
            raise UserError(f"{path} is packed in a way in which no checkpoint is; {contents.INSTEAD}.")
        damaged = archive.testzip()  # a piece at a time
        if damaged is not None:
            raise UserError(f"{path} is damaged (record {trust.shown(damaged)}); {contents.INSTEAD}.")
        for record in records:
            if record.filename.lower().endswith(".pkl"):
                _check_pickle(archive.read(record), path)


def _check_pickle(pickled: bytes, path: str | PathLike[str]) -> None:
    """Check what a pickle calls: torch would also call for example bytearray, which can fill all memory."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "GLOBAL" and not _CALLED.fullmatch(str(argument)):
            called = trust.shown(str(argument).replace(" ", "."))
            raise UserError(f"{path} is foreign, or holds code ({called}); {contents.INSTEAD}.")


def _read_export(path: str | PathLike[str]) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(METADATA_KEY)
        if text is None:
            raise UserError(f"{path} is not an export of encdec: its metadata have no {METADATA_KEY!r}.")
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
    if len(text) > _LONGEST_METADATA:
        raise UserError(f"{path} holds more metadata than an export does: it is foreign.")
    held = json.loads(text)
    contents.check_format(held, path)
    if digest({name: value for name, value in held.items() if name != "sha256"}, weights) != held.get("sha256"):
        raise UserError(f"{path} is damaged: it is not what was exported; export the checkpoint again.")
    # Lightning asks for its version, and for nothing else that is not here, when it measures
    return {
        WRITTEN_BY_KEY: {"format": held["format"], "version": held["version"]},
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": weights,
        "hyper_parameters": {**held["hyper_parameters"], "_class_path": held["paradigm"]},
        "global_step": held["step"],
        "epoch": held["epoch"],
        "metrics": held["metrics"],
        KEY: held.get(KEY),
    }

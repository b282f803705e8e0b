"""What real images score in a feature space: the same for all models of a data set, so it is kept."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from encdec.evaluation.processes import Processes
from encdec.files import written_whole
from encdec.types import UserError

_RECIPE = 1  # to be counted up when a reference is computed otherwise, so that no cache is mistaken


@dataclass(frozen=True)
class References:
    """Of the test images, and of real training images in the place of samples.

    Attributes:
        test_radii: the distance of each test image to its k-th nearest other one, (M,); empty where there are too few.
        test_kernel: its mean kernel with the others, (M,); empty where it is alone.
        scores: what training images score, by the metric's name.
        held_out: share of held-out images that count as memorised; None with fewer than two training images.
    """

    test_radii: Tensor
    test_kernel: Tensor
    scores: dict[str, float]
    held_out: float | None


@dataclass(frozen=True)
class Cache:
    """Where references are kept.

    Attributes:
        folder: beside the classifiers.
        fingerprint: of the data.
    """

    folder: Path
    fingerprint: str

    def get(
        self, key: str, processes: Processes, device: torch.device, compute: Callable[[], References]
    ) -> References:
        """The references of a key, which names all else that they depend on; computed by all processes if missing.

        Raises:
            UserError: they can't be kept.
        """
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        path = self.folder / f"references-{self.fingerprint}-{digest}-v{_RECIPE}.pt"
        found = _load(path)
        # processes that do not share a file system must all have it, because they compute it together
        if all(flag.item() for flag in processes.all_gather(torch.tensor([found is not None], device=device).int())):
            assert found is not None
            return _on(found, device)
        computed = compute()
        if processes.rank == 0:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with written_whole(path) as file:
                    torch.save(asdict(_on(computed, torch.device("cpu"))), file)
            except OSError as error:
                raise UserError(f"What real images score can't be kept in {path.parent} ({error}).") from error
        return computed


def _on(references: References, device: torch.device) -> References:
    radii, kernel = references.test_radii.to(device), references.test_kernel.to(device)
    return References(radii, kernel, references.scores, references.held_out)


def _load(path: Path) -> References | None:
    """The cached references; None if there are none or they are damaged."""
    if not path.is_file():
        return None
    try:
        found = References(**torch.load(path, map_location="cpu", weights_only=True))
        scores = {str(name): float(value) for name, value in found.scores.items()}
        held_out = None if found.held_out is None else float(found.held_out)
        tensors = found.test_radii.double(), found.test_kernel.double()
    except Exception:  # a damaged file raises many kinds; they are then computed anew
        return None
    return References(found.test_radii, tensors[1], scores, held_out)

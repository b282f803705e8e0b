"""No pass over a split copies it: what a pass holds at any time is less than the split's own bytes."""

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from encdec.callbacks import Evaluate, LogFloors, WritePredictions, evaluation_images
from encdec.data import DataModule, Images, InMemoryImages
from encdec.data.fingerprints import fingerprint
from encdec.evaluation import (
    context,
    distances,
    gradients,
    inference,
    latent_space,
    likelihood,
    memorization,
    samplers,
    samples,
    smoothness,
)
from encdec.networks import MLPDecoder, MLPEncoder
from encdec.objectives import floors
from encdec.objectives import pca as components
from encdec.paradigms import VAE, EncoderlessVAE, Paradigm
from encdec.testing.small import quiet_trainer

IMAGES, SHAPE = 20_000, (1, 16, 16)
SPLIT_BYTES = IMAGES * 16 * 16


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is on, and how many of them live at the same time."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known = {id(tensor.untyped_storage()) for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            # what is mapped from a file is memory that the system takes back when it needs it
            if isinstance(output, Tensor):
                storage = output.untyped_storage()
                self._add(storage, 0 if func is torch.ops.aten.from_file.default else storage.nbytes())
        return outputs

    def _add(self, storage: torch.UntypedStorage, size: int) -> None:
        if id(storage) not in self._known:
            self._known.add(id(storage))
            weakref.finalize(storage, self._remove, id(storage), size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class Many(DataModule):
    """Many small images of two classes."""

    def load(self) -> tuple[Images, Images]:
        """See `DataModule.load`."""
        train, test = (self._draw(seed) for seed in (1, 2))
        return train, test

    def _draw(self, seed: int) -> Images:
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(0, 256, (IMAGES, *SHAPE), generator=generator, dtype=torch.uint8)
        return InMemoryImages(pixels, torch.arange(IMAGES) % 2, ("a", "b"))


@pytest.fixture(scope="module")
def data() -> Many:
    made = Many(batch_size=100, val_fraction=0.5)
    assert made.splits
    return made


@pytest.fixture(autouse=True)
def _small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is bounded by a constant, made small beside the split."""
    monkeypatch.setattr("encdec.data.images.BLOCK", 1 << 16)
    monkeypatch.setattr("encdec.data.base.BLOCK", 1 << 16)
    for module in (context, smoothness, likelihood):
        monkeypatch.setattr(module, "BLOCK", 1 << 16)
    for module, name, value in (
        (inference, "START_LATENTS", 8), (likelihood, "START_LATENTS", 8), (latent_space, "IMAGES", 50),
        (smoothness, "LINES", 2), (smoothness, "JACOBIANS", 2), (gradients, "ANCHORS", 4), (distances, "PAIRWISE", 100),
        (samples, "PAIRWISE", 100), (samples, "MEMORIZED", 50), (memorization, "_QUERIES", 1 << 16),
        (samplers, "MOST", 100), (evaluation_images, "_PROJECTED", 50),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


def networks() -> dict[str, Any]:
    def encoder(shape: Any, size: int) -> MLPEncoder:
        return MLPEncoder(shape, size, hidden=())

    def decoder(size: int, shape: Any) -> MLPDecoder:
        return MLPDecoder(size, shape, hidden=())

    return {"encoder": encoder, "decoder": decoder, "latent_dim": 2, "image_shape": SHAPE, "num_classes": 2}


def live(data: Many) -> Live:
    pixels = {images.pixels.data_ptr(): images.pixels for images in data.splits.values()
              if isinstance(images, InMemoryImages)}  # fmt: skip
    return Live(*pixels.values())


def test_a_copy_is_seen(data: Many) -> None:
    with live(data) as copied:
        (pixels,) = data.splits["test"].stream([torch.arange(IMAGES)])
        parts = [batch.x for batch in data.test_dataloader()]
    assert copied.peak >= copied.now >= 5 * SPLIT_BYTES
    assert len(pixels) == sum(map(len, parts))
    with live(data) as streamed:
        for _ in data.test_dataloader():
            pass
    assert streamed.peak < SPLIT_BYTES / 4


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Callable[..., pl.Trainer]]:
    def make(*callbacks: pl.Callback) -> pl.Trainer:
        return pl.Trainer(
            accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[*callbacks], default_root_dir=tmp_path)  # fmt: skip

    with quiet_trainer():
        yield make


def test_validate_and_test(data: Many, trainer: Callable[..., pl.Trainer]) -> None:
    for run in ("validate", "test"):
        with live(data) as held:
            getattr(trainer(LogFloors(enabled=False)), run)(VAE(**networks()), data, verbose=False)
        assert 0 < held.peak < SPLIT_BYTES, run


def test_predict(data: Many, trainer: Callable[..., pl.Trainer], tmp_path: Path) -> None:
    with live(data) as held:
        trainer(WritePredictions(str(tmp_path))).predict(VAE(**networks()), data, return_predictions=False)
    assert 0 < held.peak < SPLIT_BYTES
    written = torch.load(tmp_path / "reconstructions.pt", weights_only=True, mmap=True)
    assert written["x"].shape == written["reconstruction"].shape == (IMAGES, *SHAPE)
    (last,) = data.splits["test"].stream([torch.arange(IMAGES - 3, IMAGES)])
    assert torch.equal(written["x"][-3:], last.float() / 255)


class Stop(pl.Callback):
    """Fails in the middle."""

    def on_predict_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Fail."""
        if args[3] == 5:
            raise MemoryError


def test_an_interrupted_predict_leaves_no_parts(data: Many, trainer: Callable[..., pl.Trainer], tmp_path: Path) -> None:
    with pytest.raises(MemoryError):
        trainer(WritePredictions(str(tmp_path)), Stop()).predict(VAE(**networks()), data, return_predictions=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "paradigm"),
    [("reconstruction", VAE), ("likelihood", VAE), ("likelihood", EncoderlessVAE), ("latent", VAE), ("samples", VAE)],
)
def test_the_evaluation(
    part: Any, paradigm: type[Paradigm], data: Many, trainer: Callable[..., pl.Trainer], tmp_path: Path
) -> None:
    arguments = networks()
    if paradigm is EncoderlessVAE:
        arguments.pop("encoder")
    # some 20 numbers belong to each image whose posterior is fitted, which are as large as these small images
    scores = Evaluate([part], 1000, IMAGES, 2, 4, 1, feature_space="pca")
    with live(data) as held:
        trainer(scores).test(paradigm(**arguments), data, verbose=False)
    assert 0 < held.peak < SPLIT_BYTES, f"{held.peak / SPLIT_BYTES:.2f} times the split"


def test_floors_and_fingerprints(data: Many) -> None:
    with live(data) as held:
        pca = components.principal_components(data.splits["test"], 2)
        floors.Moments.of(data.splits["test"], pca)
        fingerprint(data.splits["test"])
    assert 0 < held.peak < SPLIT_BYTES

"""Feature spaces: a classifier, principal components and Inception."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.decomposition import PCA
from torch_fidelity import feature_extractor_inceptionv3  # type: ignore[import-untyped]

from encdec.data import Images, InMemoryImages
from encdec.evaluation import features
from encdec.evaluation.features import INCEPTION_FILE, FeatureSpace, SpaceKind, find_space
from encdec.evaluation.processes import Processes
from encdec.types import UserError

from .helpers import ALONE, Gallery, context_of, evaluate_drawn, floats, in_turns, some


def space_of(kind: SpaceKind, train: Images, test: Images, folder: Path, processes: Processes = ALONE) -> FeatureSpace:
    view = Gallery(torch.zeros(1, *train.image_shape))
    with torch.no_grad():
        return find_space(context_of(view, train, test, processes=processes), kind, folder, "c0ffee")


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of torch.hub."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_the_classifier_learns_the_digits(splits: dict[str, Images], tmp_path: Path, no_weights: Path) -> None:
    state = torch.get_rng_state()
    space = space_of("auto", splits["train"], splits["test"], tmp_path)
    assert torch.equal(state, torch.get_rng_state())
    assert space.name == "classifier"
    assert space.accuracy is not None
    assert space.accuracy > 0.93
    assert f"{100 * space.accuracy:.1f} % accurate" in space.description
    values = space.features(torch.rand(3, 1, 8, 8, dtype=torch.float64))
    assert values.shape == (3, space.dim)
    assert values.dtype == torch.float32
    assert not values.requires_grad


def test_a_cached_classifier_is_used_and_a_damaged_one_is_trained_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_MIN_STEPS", 20)
    train, test, x = some(60), some(30, seed=1), torch.rand(4, 1, 8, 8)
    first = space_of("classifier", train, test, tmp_path)
    (cached,) = tmp_path.glob("classifier-c0ffee-*.pt")
    content = cached.read_bytes()
    with monkeypatch.context() as patch:
        patch.delattr(features, "_fit")
        second = space_of("classifier", train, test, tmp_path)
    assert (second.accuracy, second.description) == (first.accuracy, first.description)
    assert torch.equal(second.features(x), first.features(x))
    for damaged in (content[: len(content) // 2], b"", b"\x80\x02}q\x00."):
        cached.write_bytes(damaged)
        assert torch.equal(space_of("classifier", train, test, tmp_path).features(x), first.features(x))
        assert cached.read_bytes() == content
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".pt", ".lock")]


def test_processes_without_a_shared_folder_use_one_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_MIN_STEPS", 5)
    train, test, x = some(60), some(30, seed=1), torch.rand(4, 1, 8, 8)

    def work(processes: Processes) -> FeatureSpace:
        split = train.subset(torch.arange(30 * processes.rank, 60))  # so that what each trains differs
        return space_of("classifier", split, test, tmp_path / str(processes.rank), processes)

    first, second = in_turns(2, work)
    assert torch.equal(first.features(x), second.features(x))
    assert first.description == second.description


def test_a_class_with_one_image_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_MIN_STEPS", 5)
    train, test = some(41), some(30, seed=1)
    train = replace(train, labels=torch.cat([torch.zeros(40, dtype=torch.int64), torch.ones(1, dtype=torch.int64)]))
    space = space_of("classifier", train, test, tmp_path)
    metrics = evaluate_drawn(Gallery(torch.rand(9, 1, 8, 8)), train, test, 30, space)
    assert metrics.undefined == {}
    assert "frechet_classifier" in metrics.values


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 33), (2, 64, 64)])
def test_the_classifier_takes_images_of_any_size(
    shape: tuple[int, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_MIN_STEPS", 1)
    pixels = torch.randint(0, 256, (6, *shape), dtype=torch.uint8)
    images = InMemoryImages(pixels, torch.arange(6) % 2, ("a", "b"))
    assert space_of("classifier", images, images, tmp_path).features(torch.rand(5, *shape)).shape == (5, 128)


def test_data_without_labels_are_compared_in_principal_components(
    splits: dict[str, Images], tmp_path: Path, no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_COMPONENTS", 12)
    digits = splits["train"]
    assert isinstance(digits, InMemoryImages)
    train = replace(digits, labels=torch.zeros_like(digits.labels), classes=("image",))
    space = space_of("auto", train, train, tmp_path)
    assert (space.name, space.dim, space.accuracy) == ("pca", 12, None)
    x = floats(train)
    expected = PCA(12, svd_solver="full").fit_transform(x.flatten(1).numpy())
    torch.testing.assert_close(space.features(x).abs(), torch.from_numpy(expected).abs(), rtol=1e-3, atol=1e-3)
    for shared in in_turns(2, lambda processes: space_of("pca", train, train, tmp_path, processes)):
        torch.testing.assert_close(shared.features(x).abs(), space.features(x).abs(), rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="two classes or more: use pca"):
        space_of("classifier", train, train, tmp_path)


def test_missing_inception_is_said_in_one_sentence(
    tmp_path: Path, no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=INCEPTION_FILE):
        space_of("inception", some(9), some(9), tmp_path)
    no_weights.mkdir(parents=True)
    (no_weights / INCEPTION_FILE).write_bytes(b"no weights")
    with pytest.raises(UserError, match="can't be read as the weights"):
        space_of("inception", some(9), some(9), tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install torch-fidelity"):
        space_of("inception", some(9), some(9), tmp_path)


@pytest.mark.slow
def test_inception_features_are_those_of_torch_fidelity(
    tmp_path: Path, no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random weights in the published file's format."""

    class Blank(feature_extractor_inceptionv3.FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *args: Any) -> None:
            """Keep the random weights."""

    monkeypatch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *args, **kwargs: {})
    network = Blank("inception-v3-compat", ["2048"])
    no_weights.mkdir(parents=True)
    torch.save(network.state_dict(), no_weights / INCEPTION_FILE)
    grey = some(4)
    space = space_of("auto", grey, grey, tmp_path)
    assert (space.name, space.dim) == ("inception", 2048)
    values = space.features(floats(grey))
    expected = network(grey.pixels.repeat(1, 3, 1, 1))[0]
    torch.testing.assert_close(values, expected)
    assert values.std() > 0

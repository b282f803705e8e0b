"""Figures of samples against closed forms, independent implementations and brute force."""

import importlib.util
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import prdc  # type: ignore[import-untyped]
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor
from torch_fidelity import feature_extractor_inceptionv3  # type: ignore[import-untyped]

from encdec.data import Digits, Images, InMemoryImages
from encdec.evaluation import base, features
from encdec.evaluation.base import Figures, Processes, View
from encdec.evaluation.features import INCEPTION_FILE, FeatureSpace, SpaceKind, find_space
from encdec.evaluation.samples import evaluate_samples, kernel_distance, neighbour_scores
from encdec.paradigms import VAE, ConditionalDecoder
from encdec.types import UserError

CPU = torch.device("cpu")
PIXELS = FeatureSpace("pixels", 64, "the pixels", None, lambda x: x.flatten(1), 50)
ALONE = Processes()


class Gallery(View):
    """A "decoder" whose i-th sample is the i-th of some pictures, again from the first after the last."""

    def __init__(self, pictures: Tensor) -> None:
        self.pictures, self.device, self.dim, self.reads_labels = pictures, CPU, 1, False

    def noise(self, draw: int, index: Tensor) -> Tensor:
        return index.double().unsqueeze(1)

    def images(self, e: Tensor, y: Tensor) -> Tensor:
        return self.pictures[e[:, 0].long() % len(self.pictures)]


@pytest.fixture(scope="module")
def splits() -> dict[str, Images]:
    return Digits().splits


def pictures(images: Images) -> Tensor:
    return next(images.stream([torch.arange(len(images.labels))])).float().div(255)


def some(count: int, seed: int = 0, classes: int = 2) -> InMemoryImages:
    """Random pictures of 8×8 pixels, those of class y brighter the larger y is."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, 128, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    pixels += (labels * 127 // max(1, classes - 1)).to(torch.uint8).view(-1, 1, 1, 1)
    return InMemoryImages(pixels, labels, tuple(map(str, range(classes))))


def figures_of(
    view: View, train: Images, test: Images, count: int, space: FeatureSpace = PIXELS, processes: Processes = ALONE
) -> Figures:
    figures, progress = Figures(), [0.0]
    evaluate_samples(view, train, test, space, count, processes, figures, progress.append)
    assert progress == sorted(progress)
    assert all(np.isfinite(figure.value) for figure in figures.values.values())
    return figures


def in_turns(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """What `work` returns to each of `count` processes: threads of which one runs at a time, as they share an RNG."""
    turn, barrier, gathered = threading.Lock(), threading.Barrier(count, timeout=60), [torch.empty(0)] * count

    def process(rank: int) -> Any:
        def all_gather(tensor: Tensor) -> list[Tensor]:
            gathered[rank] = tensor
            turn.release()
            barrier.wait()
            everything = list(gathered)
            barrier.wait()
            turn.acquire()
            assert len({part.shape for part in everything}) == 1
            return everything

        with turn:
            return work(Processes(rank, count, all_gather))

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(process, range(count)))


# ---------------------------------------------------------------------- feature-space figures


def test_equal_sets_are_at_distance_zero_and_cover_each_other(splits: dict[str, Images]) -> None:
    test = splits["test"]
    values = figures_of(Gallery(pictures(test)), splits["train"], test, len(test.labels)).values
    assert values["frechet_pixels"].value == pytest.approx(0, abs=1e-5)
    for name in ("precision", "recall", "coverage"):
        assert values[f"{name}_pixels"].value == 1


def test_frechet_distance_of_a_shifted_and_scaled_set(splits: dict[str, Images]) -> None:
    """With features s·a + c: ‖(s − 1) μ + c‖² + (s − 1)² Tr Σ, although constant pixels make Σ singular."""
    test, scale, shift = splits["test"], 0.5, 0.2
    x = pictures(test)
    figure = figures_of(Gallery(scale * x + shift), splits["train"], test, len(x)).values["frechet_pixels"]
    a = x.flatten(1).double().numpy()
    expected = (((scale - 1) * a.mean(0) + shift) ** 2).sum() + (scale - 1) ** 2 * a.var(0, ddof=1).sum()
    assert figure.value == pytest.approx(expected, rel=1e-5)
    assert "359 samples vs 359 test images" in figure.unit
    assert figure.reference_name == "359 real training images"


def test_frechet_distance_of_fewer_images_than_dimensions(splits: dict[str, Images]) -> None:
    """Against the symmetric form Tr (Σ_1^½ Σ_2 Σ_1^½)^½, with both covariances far from full rank."""
    train, test = splits["train"], splits["test"].subset(torch.arange(20))
    x = pictures(train)[:25]

    def root(matrix: Any) -> Any:
        values, axes = np.linalg.eigh(matrix)
        return (axes * np.sqrt(values.clip(0))) @ axes.T

    a, b = (t.flatten(1).double().numpy() for t in (x, pictures(test)))
    s1, s2 = np.cov(a.T), np.cov(b.T)
    cross = np.trace(root(root(s1) @ s2 @ root(s1)))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * cross
    value = figures_of(Gallery(x), train, test, len(x)).values["frechet_pixels"].value
    assert value == pytest.approx(expected, rel=1e-4)


def test_a_collapsed_decoder_has_finite_figures(splits: dict[str, Images]) -> None:
    train, test = splits["train"], splits["test"]
    x, mean = pictures(test), pictures(train).mean(0, keepdim=True)
    figures = figures_of(Gallery(mean), train, test, 300)
    assert figures.undefined == {}
    value = {name: figure.value for name, figure in figures.values.items()}
    a = x.flatten(1).double().numpy()
    expected = ((a.mean(0) - mean.double().numpy().ravel()) ** 2).sum() + a.var(0, ddof=1).sum()
    assert value["frechet_pixels"] == pytest.approx(expected, rel=1e-5)
    assert value["sample_variance"] == value["sample_variance_z"] == value["recall_pixels"] == 0
    assert value["sample_mean_distance"] == pytest.approx(0, abs=1e-12)


def test_kernel_distance_of_one_full_subset_against_numpy() -> None:
    a, b = torch.randn(150, 7), 0.5 + torch.randn(150, 7)

    def kernel(x: Any, y: Any) -> Any:
        return (x @ y.T / 7 + 1) ** 3

    x, y, n = a.double().numpy(), b.double().numpy(), 150
    within = sum((kernel(u, u).sum() - np.trace(kernel(u, u))) / (n * (n - 1)) for u in (x, y))
    mean, spread = kernel_distance(a, b)
    assert float(mean) == pytest.approx(within - 2 * kernel(x, y).mean(), rel=1e-4)
    assert spread == 0


def test_kernel_distance_over_subsets_is_reproducible_and_leaves_the_global_generator_alone() -> None:
    a, b = torch.randn(300, 5), torch.randn(120, 5)
    state = torch.get_rng_state()
    first = kernel_distance(a, b)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    assert kernel_distance(a, b) == first
    assert first[1] > 0


def test_precision_recall_density_and_coverage_against_the_authors_package() -> None:
    a, b = torch.randn(120, 6).double(), (0.7 * torch.randn(150, 6) + 0.4).double()
    expected = prdc.compute_prdc(real_features=b.numpy(), fake_features=a.numpy(), nearest_k=5)
    scores = neighbour_scores(a, b, ALONE)
    assert {name: len(values) for name, values in scores.items()} == {
        "precision": 120,
        "density": 120,
        "recall": 150,
        "coverage": 150,
    }
    for name, value in expected.items():
        assert value > 0
        assert float(scores[name].mean()) == pytest.approx(value, abs=1e-9)


# ---------------------------------------------------------------------- diversity


def drawn(paradigm: VAE | ConditionalDecoder, test: Images, count: int) -> tuple[Any, Any]:
    """The samples of an evaluation and their labels: as many as test images, so in any order of the labels."""
    view, seen = View(paradigm), []
    inside = view.images

    def images(e: Tensor, y: Tensor) -> Tensor:
        seen.append((inside(e, y), y))
        return seen[-1][0]

    view.images = images  # type: ignore[method-assign]
    figures_of(view, test, test, count)
    x, y = (torch.cat(parts)[:count] for parts in zip(*seen, strict=True))
    return x.flatten(1).double().numpy(), y.numpy()


@pytest.mark.parametrize("labelled", [True, False])
def test_variances_against_numpy(labelled: bool, splits: dict[str, Images]) -> None:
    train, test, count = splits["train"], splits["test"], 400
    kind = ConditionalDecoder if labelled else VAE
    paradigm = kind(image_shape=(1, 8, 8), num_classes=10, latent_dim=3, seed=1).eval()
    for p in paradigm.parameters():
        p.data *= 2  # labels and codes that matter
    x, y = drawn(paradigm, test, count)
    values = figures_of(View(paradigm), train, test, count).values
    a, b = (pictures(images).flatten(1).double().numpy() for images in (train, test))
    total = b.var(0).sum()
    assert values["sample_variance"].value == pytest.approx(x.var(0).sum() / total, rel=1e-6)
    assert values["sample_variance"].reference == pytest.approx(a.var(0).sum() / total, rel=1e-6)
    within = sum((y == k).mean() * x[y == k].var(0).sum() for k in range(10)) if labelled else x.var(0).sum()
    assert values["sample_variance_z"].value == pytest.approx(within / total, rel=1e-6)
    labels = train.labels.numpy()
    real = sum((labels == k).mean() * a[labels == k].var(0).sum() for k in range(10))
    if not labelled:  # a decoder that does not read labels is compared with images of all classes
        real = a.var(0).sum()
    assert values["sample_variance_z"].reference == pytest.approx(real / total, rel=1e-6)
    figure = values["sample_mean_distance"]
    assert figure.value == pytest.approx(((x.mean(0) - a.mean(0)) ** 2).mean(), rel=1e-6)
    assert figure.reference == pytest.approx(((b.mean(0) - a.mean(0)) ** 2).mean(), rel=1e-6)


def test_labels_of_few_samples_are_not_those_of_the_first_test_images() -> None:
    """A test split may be sorted by class."""
    test = some(200)
    test = test.subset(test.labels.argsort())
    paradigm = ConditionalDecoder(image_shape=(1, 8, 8), num_classes=2, latent_dim=3).eval()
    _, y = drawn(paradigm, test, 60)
    assert 15 < y.sum() < 45


# ---------------------------------------------------------------------- memorisation


def test_memorised_against_brute_force(splits: dict[str, Images]) -> None:
    train, test = splits["train"].subset(torch.arange(300)), splits["test"].subset(torch.arange(100))
    a, b = (pictures(images).flatten(1).double().numpy() for images in (train, test))
    noisy = (pictures(train)[:80] + 0.15 * torch.randn(80, 1, 8, 8)).clamp(0, 1)

    def share(queries: Any) -> float:
        d = ((queries[:, None] - a[None]) ** 2).sum(2)
        own = ((a[:, None] - a[None]) ** 2).sum(2)
        np.fill_diagonal(own, np.inf)
        return float((d.min(1) < own.min(1)[d.argmin(1)]).mean())

    figure = figures_of(Gallery(noisy), train, test, 80).values["memorised"]
    expected = share(noisy.flatten(1).double().numpy())
    assert 0.05 < expected < 0.95
    assert figure.value == pytest.approx(expected)
    assert figure.reference == pytest.approx(share(b))


def test_training_images_are_memorised() -> None:
    train, test = some(90), some(70, seed=1)
    assert figures_of(Gallery(pictures(train)), train, test, 90).values["memorised"].value == 1


def test_memorised_when_queries_take_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = some(90), some(70, seed=1)
    view = Gallery(torch.rand(50, 1, 8, 8))
    once = figures_of(view, train, test, 50)
    monkeypatch.setattr("encdec.evaluation.samples._QUERIES", 64 * 7)
    assert figures_of(view, train, test, 50) == once


# ---------------------------------------------------------------------- sharing, blocks, undefined cases


def same(a: Figures, b: Figures) -> None:
    assert a.undefined == b.undefined
    assert a.values.keys() == b.values.keys()
    for name, figure in a.values.items():
        other = b.values[name]
        assert (figure.unit, figure.reference_name) == (other.unit, other.reference_name)
        assert (figure.value, figure.reference) == pytest.approx((other.value, other.reference), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_give_what_one_gives(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = some(90), some(71, seed=1)
    paradigm = ConditionalDecoder(image_shape=(1, 8, 8), num_classes=2, latent_dim=3).eval()
    one = figures_of(View(paradigm), train, test, 65)
    assert len(one.values) == 10
    monkeypatch.setattr(base, "BLOCK", 64 * 8)  # 65 samples in blocks of 8 leave the last block to one process
    results = in_turns(count, lambda processes: figures_of(View(paradigm), train, test, 65, PIXELS, processes))
    for result in results:
        same(result, one)
        assert result == results[0]


def test_processes_without_a_share_read_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test, view = some(90), some(71, seed=1), Gallery(torch.rand(2, 1, 8, 8))
    one, stream = figures_of(view, train, test, 2), InMemoryImages.stream

    def checked(self: InMemoryImages, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        assert all(len(batch) for batch in batches)
        return stream(self, batches)

    monkeypatch.setattr(InMemoryImages, "stream", checked)
    for result in in_turns(3, lambda processes: figures_of(view, train, test, 2, PIXELS, processes)):
        same(result, one)


def test_the_size_of_blocks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = some(90), some(71, seed=1)
    paradigm = VAE(image_shape=(1, 8, 8), num_classes=2, latent_dim=3).eval()
    one = figures_of(View(paradigm), train, test, 65)
    monkeypatch.setattr(base, "BLOCK", 1)
    same(figures_of(View(paradigm), train, test, 65, replace(PIXELS, block=1)), one)


def test_too_few_images_are_said_in_sentences() -> None:
    train, test = some(3), some(4, seed=1)
    figures = figures_of(Gallery(torch.rand(9, 1, 8, 8)), train, test, 9)
    assert "at least 6 samples and 6 test images" in figures.undefined["precision_pixels"]
    assert set(figures.undefined) == {f"{name}_pixels" for name in ("precision", "recall", "density", "coverage")}
    figures = figures_of(Gallery(torch.rand(9, 1, 8, 8)), train.subset(torch.tensor([0])), test, 1)
    assert "at least 2 samples" in figures.undefined["frechet_pixels"]
    assert "at least 2 training images" in figures.undefined["memorised"]
    assert "no label has more than one sample" in figures.undefined["sample_variance_z"]
    assert figures.values["sample_variance"].value == 0


def test_constant_test_images_have_no_variance_to_compare_with() -> None:
    test = InMemoryImages(torch.full((20, 1, 8, 8), 77, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64))
    figures = figures_of(Gallery(torch.rand(9, 1, 8, 8)), some(20), test, 9)
    for name in ("sample_variance", "sample_variance_z"):
        assert "all test images are the same" in figures.undefined[name]
    assert len(figures.values) == 8


def test_samples_that_are_not_finite_are_said_in_a_sentence() -> None:
    figures = figures_of(Gallery(torch.full((9, 1, 8, 8), torch.nan)), some(20), some(20, seed=1), 9)
    assert figures.values == {}
    assert len(figures.undefined) == 10
    assert "not finite" in figures.undefined["frechet_pixels"]


# ---------------------------------------------------------------------- feature spaces


def space_of(kind: SpaceKind, train: Images, test: Images, folder: Path, processes: Processes = ALONE) -> FeatureSpace:
    with torch.no_grad():
        return find_space(kind, train, test, folder, "c0ffee", CPU, processes, lambda done: None)


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
    figures = figures_of(Gallery(torch.rand(9, 1, 8, 8)), train, test, 30, space)
    assert figures.undefined == {}
    assert "frechet_classifier" in figures.values


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
    x = pictures(train)
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
    values = space.features(pictures(grey))
    expected = network(grey.pixels.repeat(1, 3, 1, 1))[0]
    torch.testing.assert_close(values, expected)
    assert values.std() > 0

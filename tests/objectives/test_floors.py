"""Floors against plain numpy, against the check values of real data, and at any size."""

import numpy as np
import pytest
import torch
from sklearn import decomposition

from encdec.data import Digits, FashionMNIST, InMemoryImages
from encdec.data.fashion_mnist import DEBIAN_DIR
from encdec.objectives import pca as components
from encdec.objectives.floors import Floors, Moments
from encdec.objectives.pca import principal_components
from encdec.types import Conditioning, Drawing, UserError


def random_images(
    count: int, classes: int = 3, shape: tuple[int, int, int] = (2, 4, 5), seed: int = 0
) -> InMemoryImages:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    pixels = torch.randint(0, 200, (count, *shape), generator=generator) + 15 * labels.reshape(-1, 1, 1, 1)
    return InMemoryImages(pixels.to(torch.uint8), labels, tuple("abcdefgh"[:classes]))


def test_floors_are_the_losses_of_the_optima() -> None:
    train, held_out = random_images(500), random_images(300, seed=1)
    pca = principal_components(train, 4)
    found = Floors.of(Moments.of(train, pca), Moments.of(held_out, pca))
    x, t = (images.pixels.double().numpy().reshape(len(images.labels), -1) / 255 for images in (train, held_out))
    class_means = np.stack([x[train.labels.numpy() == label].mean(0) for label in range(3)])
    outputs = {
        Conditioning.NONE: x.mean(0),
        Conditioning.LABEL: class_means[held_out.labels.numpy()],
        Conditioning.IMAGE: t,
    }
    for conditioning, output in outputs.items():
        assert found.mse[conditioning] == pytest.approx(((t - output) ** 2).mean(), rel=1e-12, abs=1e-15)
        p = np.clip(output, 1e-300, 1 - 1e-16)
        bce = -(t * np.log(p) + (1 - t) * np.log1p(-p)).sum(1).mean()
        assert found.bce[conditioning] == pytest.approx(bce, rel=1e-9)
    reference = decomposition.PCA(4).fit(x)
    residual = ((t - reference.inverse_transform(reference.transform(t))) ** 2).mean()
    assert found.pca_mse == pytest.approx(residual, rel=1e-9)
    assert found.components == 4


def test_on_the_training_split_the_floors_are_variances_and_eigenvalues() -> None:
    train = random_images(400)
    moments = Moments.of(train, principal_components(train, 3))
    x = train.pixels.double().numpy().reshape(400, -1) / 255
    found = Floors.of(moments, moments)
    assert found.mse[Conditioning.NONE] == pytest.approx(x.var(0).mean(), rel=1e-12)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    assert found.pca_mse == pytest.approx(eigenvalues[3:].sum() / 40, rel=1e-9)
    assert moments.residuals == pytest.approx([eigenvalues[k:].sum() for k in range(4)], rel=1e-9)


@pytest.mark.skipif(not DEBIAN_DIR.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_the_floors_of_fashion_mnist_are_the_known_ones() -> None:
    """Check values from an independent computation; MSE per pixel and nats per image, train and test."""
    train, test = FashionMNIST().load()
    pca = principal_components(train, 64)
    on_train, on_test = Moments.of(train), Moments.of(test, pca)
    expected = {
        Conditioning.NONE: (0.08701, 0.08664, 384.32, 385.02),
        Conditioning.LABEL: (0.05245, 0.05237, 306.96, 308.48),
    }
    a, b = Floors.of(on_train, on_train), Floors.of(on_train, on_test)
    for conditioning, values in expected.items():
        assert [round(a.mse[conditioning], 5), round(b.mse[conditioning], 5)] == list(values[:2])
        assert [round(a.bce[conditioning], 2), round(b.bce[conditioning], 2)] == list(values[2:])
    assert [round(a.bce[Conditioning.IMAGE], 2), round(b.bce[Conditioning.IMAGE], 2)] == [188.28, 189.86]
    for k, mse in {2: 0.0461, 8: 0.0266, 16: 0.0205, 32: 0.0151, 64: 0.0104}.items():
        # the check values were printed with four digits
        assert on_test.residuals[k] / 784 == pytest.approx(mse, abs=1e-4)


def test_processes_share_the_pass_and_get_the_same_numbers() -> None:
    train = random_images(301)
    alone = Moments.of(train)
    recorded: list[list[torch.Tensor]] = [[], []]
    for rank in range(2):

        def record(tensor: torch.Tensor, rank: int = rank) -> torch.Tensor:
            recorded[rank].append(tensor)
            return tensor

        Moments.of(train, None, rank, 2, record)
    both = [a + b for a, b in zip(*recorded, strict=True)]
    totals = iter(both)
    shared = Moments.of(train, None, 0, 2, lambda _: next(totals))
    assert torch.equal(shared.means, alone.means)
    assert (shared.square, shared.entropy) == (alone.square, alone.entropy)


@pytest.mark.parametrize(("largest", "tolerance"), [(10_000, 1e-4), (10, 1e-2)])
def test_many_pixels_use_subspace_iteration(largest: int, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the covariance, or in passes over the images; of noise, its hardest case."""
    train = random_images(600, shape=(1, 6, 6))
    exact = Moments.of(train, principal_components(train, 5)).residuals
    monkeypatch.setattr(components, "_LARGEST_EXACT", 10)
    monkeypatch.setattr(components, "LARGEST_COVARIANCE", largest)
    pca = principal_components(train, 5)
    torch.testing.assert_close(pca.axes.T @ pca.axes, torch.eye(5, dtype=torch.float64))
    found = Moments.of(train, pca).residuals
    assert found == pytest.approx(exact, rel=tolerance)
    assert all(value >= wanted * (1 - 1e-9) for value, wanted in zip(found, exact, strict=True))


def test_more_components_than_pixels_leave_nothing() -> None:
    train = random_images(50, shape=(1, 2, 3))
    moments = Moments.of(train, principal_components(train, 32))
    assert len(moments.residuals) == 7
    assert moments.residuals[-1] == pytest.approx(0, abs=1e-12)


def test_constant_images_and_single_image_classes_give_numbers() -> None:
    alike = InMemoryImages(
        torch.full((6, 1, 2, 2), 51, dtype=torch.uint8), torch.tensor([0, 0, 0, 0, 0, 1]), ("a", "b")
    )
    moments = Moments.of(alike)
    found = Floors.of(moments, moments)
    assert found.mse[Conditioning.NONE] == pytest.approx(0, abs=1e-15)
    assert found.mse[Conditioning.LABEL] == pytest.approx(0, abs=1e-15)
    assert found.explained_variance(0.1) is None
    assert "explained_variance" not in found.beside({"mse": 0.1}, {"": Conditioning.NONE})
    assert "nothing to explain" in found.verdict(0.1, Conditioning.NONE)
    assert found.bce[Conditioning.NONE] == pytest.approx(found.bce[Conditioning.IMAGE])


def test_a_class_that_training_lacks_falls_back_on_the_mean_image() -> None:
    train = InMemoryImages(torch.tensor([[[[0]]], [[[100]]]], dtype=torch.uint8), torch.tensor([0, 0]), ("a", "b"))
    held_out = InMemoryImages(torch.tensor([[[[255]]]], dtype=torch.uint8), torch.tensor([1]), ("a", "b"))
    found = Floors.of(Moments.of(train), Moments.of(held_out))
    assert found.mse[Conditioning.LABEL] == pytest.approx((1 - 50 / 255) ** 2)


def test_an_empty_split_is_refused() -> None:
    empty = InMemoryImages(torch.zeros(0, 1, 2, 2, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(UserError, match="at least one image"):
        Moments.of(empty)


def test_pixels_that_are_no_bytes_are_refused() -> None:
    """As a plugin's data set could stream them, with NaN among them."""
    images = random_images(5)
    object.__setattr__(images, "stream", lambda batches: (torch.full((len(b), 2, 4, 5), torch.nan) for b in batches))
    with pytest.raises(UserError, match=r"8-bit pixels, but this data set streams torch\.float32"):
        Moments.of(images)


def test_what_stands_beside_a_metric() -> None:
    split = Moments.of(Digits().splits["val"])
    found = Floors.of(Moments.of(Digits().splits["train"]), split)
    of_outputs = {"": Conditioning.NONE, "_zeros": Conditioning.NONE}
    beside = found.beside({"mse": 0.08, "bce": 28.0, "mse_zeros": 0.09, "loss": 1.0}, of_outputs)
    floor = found.mse[Conditioning.NONE]
    assert beside == pytest.approx(
        {
            "mse_floor": floor,
            "mse_gap": 0.08 - floor,
            "mse_gap_zeros": 0.09 - floor,
            "explained_variance": 1 - 0.08 / floor,
            "explained_variance_zeros": 1 - 0.09 / floor,
            "bce_floor": found.bce[Conditioning.NONE],
            "bce_gap": 28.0 - found.bce[Conditioning.NONE],
        }
    )


def test_the_floors_need_no_copy_of_the_split() -> None:
    """Pixels are asked for in blocks of at most 256 images."""
    images = random_images(1000)
    asked: list[int] = []

    stream = images.stream

    def watch(batches: list[torch.Tensor]) -> object:
        asked.extend(map(len, batches))
        return stream(batches)

    object.__setattr__(images, "stream", watch)  # it is frozen
    principal_components(images, 2)
    Moments.of(images)
    assert max(asked) <= 256
    assert sum(asked) == 2000


def as_drawn(images: InMemoryImages, drawing: Drawing) -> tuple[np.ndarray, np.ndarray]:
    """A list of images that are drawn equally often: of each class as many, each and its mirror image."""
    labels = images.labels.numpy()
    x = images.pixels.double().numpy() / 255
    if drawing.class_balanced:
        counts = np.bincount(labels)
        times = int(np.lcm.reduce(counts[counts > 0])) // counts.clip(1)
        x, labels = x.repeat(times[labels], 0), labels.repeat(times[labels])
    if drawing.horizontal_flips:
        x, labels = np.concatenate([x, x[..., ::-1]]), np.concatenate([labels, labels])
    return x.reshape(len(x), -1), labels


@pytest.mark.parametrize("drawing", [Drawing(True), Drawing(False, True), Drawing(True, True)])
@pytest.mark.parametrize("sizes", [None, (10, 10_000), (10, 10)], ids=["exact", "covariance", "passes"])
def test_the_floors_of_a_training_are_those_of_the_images_as_it_draws_them(
    drawing: Drawing, sizes: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against plain numpy on a list of all images that may be drawn; class `d` has none, `a` has 3."""
    labels = torch.tensor([0] * 3 + [1] * 30 + [2] * 10 + [4] * 5)
    train, held_out = random_images(48, 5), random_images(300, seed=1)
    pixels = train.pixels // 4 + (40 * labels).to(torch.uint8).reshape(-1, 1, 1, 1)
    pixels[..., 0] //= 3
    train = InMemoryImages(pixels, labels, tuple("abcde"))
    held_out = InMemoryImages(held_out.pixels // 2, held_out.labels, train.classes)
    if sizes is not None:
        monkeypatch.setattr(components, "_LARGEST_EXACT", sizes[0])
        monkeypatch.setattr(components, "LARGEST_COVARIANCE", sizes[1])
    pca = principal_components(train, 4, drawing=drawing)
    drawn = Moments.of(train, pca).drawn(drawing, train.image_shape)
    x, y = as_drawn(train, drawing)
    t = held_out.pixels.double().numpy().reshape(300, -1) / 255
    np.testing.assert_allclose(drawn.mean, x.mean(0), rtol=1e-12)
    reference = decomposition.PCA(4, svd_solver="full").fit(x)
    class_means = np.stack([x[y == label].mean(0) if (y == label).any() else x.mean(0) for label in range(5)])
    for images, of_images, moments in ((x, y, drawn), (t, held_out.labels.numpy(), Moments.of(held_out, pca))):
        found = Floors.of(drawn, moments)
        for conditioning, output in ((Conditioning.NONE, x.mean(0)), (Conditioning.LABEL, class_means[of_images])):
            assert found.mse[conditioning] == pytest.approx(((images - output) ** 2).mean(), rel=1e-12)
            bce = -(images * np.log(output) + (1 - images) * np.log1p(-output)).sum(1).mean()
            assert found.bce[conditioning] == pytest.approx(bce, rel=1e-9)
        residual = ((images - reference.inverse_transform(reference.transform(images))) ** 2).mean()
        assert found.pca_mse == pytest.approx(residual, rel=1e-9 if sizes is None else 1e-2)

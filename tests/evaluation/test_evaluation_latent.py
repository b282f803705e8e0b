"""Neighbours, smoothness, active units, contradictions and pictures against brute force and closed forms."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from encdec.data import Images, InMemoryImages
from encdec.evaluation import latent_space
from encdec.evaluation.base import DRAWS, Figures, Processes, View
from encdec.evaluation.latent_pictures import interpolations, latent_map, strip_codes
from encdec.evaluation.latent_space import add_active_units, add_gradients, add_neighbours, add_targets, evaluate_latent
from encdec.objectives import losses
from encdec.objectives.noise import normal
from encdec.paradigms import AE, VAE, ConditionalDecoder, EncoderlessVAE, Paradigm
from encdec.types import Batch, Conditioning, Shape

SHAPE: Shape = (1, 3, 4)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def random_images(count: int, classes: int = 3, shape: Shape = SHAPE, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return InMemoryImages(pixels, torch.arange(count) % classes, tuple("abc"[:classes]))


def pixels_of(images: Images) -> Tensor:
    (pixels,) = images.stream([torch.arange(len(images.labels))])
    return pixels.flatten(1).double() / 255


class Linear(Paradigm):
    """logits = W z + V onehot(y), the squared error, and a table of codes for its training images."""

    conditioning = Conditioning.IMAGE

    def __init__(self, latent_dim: int = 2, own_codes: bool = False, **kwargs: Any) -> None:
        super().__init__(image_shape=SHAPE, num_classes=3, **kwargs)
        self.latent_dim, self.own_codes = latent_dim, own_codes
        self.decoder = nn.Linear(latent_dim, math.prod(SHAPE), bias=False)
        self.of_label = nn.Parameter(torch.zeros(3, math.prod(SHAPE)))
        self.codes = nn.Parameter(torch.randn(self.num_train, latent_dim))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.decode(self.codes[batch.index], batch.y)
        return {"loss": losses.squared_error(losses.pixel_means(logits), batch.x), "logits": logits}

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        logits: Tensor = self.decoder(z) + self.of_label[y]
        return logits.reshape(-1, *self.image_shape)

    def paired_codes(self, batch: Batch) -> Tensor | None:
        return self.codes[batch.index] if self.own_codes else None


def evaluate(paradigm: Paradigm, train: Images, test: Images, **codes: Tensor | None) -> Figures:
    figures, done = Figures(), list[float]()
    arguments = {"optimised_codes": None, "optimised_means": None, **codes}
    evaluate_latent(
        View(paradigm.eval()), train, test, figures=figures, processes=Processes(), advance=done.append, **arguments
    )
    assert done == sorted(done)
    assert done[-1] == 1
    return figures


# ---------------------------------------------------------------------- neighbours


def test_neighbours_against_scikit_learn() -> None:
    images, codes = random_images(60), torch.randn(60, 3)
    codes[:, 0] += 8 * pixels_of(images)[:, 0]
    figures = Figures()
    add_neighbours(figures, images, torch.arange(60), {"encoder": codes}, CPU)

    def nearest(points: Tensor) -> Any:
        model = NearestNeighbors(n_neighbors=10, algorithm="brute").fit(points.numpy())
        return model.kneighbors(return_distance=False)

    of_images, of_codes = nearest(pixels_of(images)), nearest(codes.double())
    kept = np.array([len(set(a) & set(b)) / 10 for a, b in zip(of_images, of_codes, strict=True)])
    figure = figures.values["neighbours_encoder"]
    assert figure.value == pytest.approx(kept.mean())
    assert figure.standard_error == pytest.approx(kept.std(ddof=1) / np.sqrt(60))
    assert figure.reference == pytest.approx(10 / 59)


def test_pixels_as_codes_keep_all_neighbours_and_random_codes_keep_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(400)
    codes = {"encoder": pixels_of(images), "optimised": torch.randn(300, 4)}
    whole, blocks = Figures(), Figures()
    add_neighbours(whole, images, torch.arange(400), codes, CPU)
    assert whole.values["neighbours_encoder"].value == 1
    random = whole.values["neighbours_optimised"]
    assert random.standard_error is not None
    assert random.reference is not None
    assert abs(random.value - random.reference) < 4 * random.standard_error
    monkeypatch.setattr("encdec.evaluation.base.BLOCK", 12 * 7)
    add_neighbours(blocks, images, torch.arange(400), codes, CPU)
    assert whole == blocks, "blocks change nothing"


@pytest.mark.parametrize(
    ("images", "codes", "sentence"),
    [
        (random_images(11), torch.randn(11, 2), "at least 12 images"),
        (InMemoryImages(torch.full((20, *SHAPE), 7, dtype=torch.uint8), torch.zeros(20).long()), None, "are the same"),
        (random_images(20), torch.ones(20, 2), "same code"),
    ],
)
def test_neighbours_are_undefined_for_few_or_constant_images(
    images: Images, codes: Tensor | None, sentence: str
) -> None:
    figures = Figures()
    codes = torch.randn(20, 2) if codes is None else codes
    add_neighbours(figures, images, torch.arange(len(codes)), {"encoder": codes}, CPU)
    assert not figures.values
    assert sentence in figures.undefined["neighbours_encoder"]


# ---------------------------------------------------------------------- smoothness


def test_paths_of_a_linear_decoder_against_numpy() -> None:
    paradigm = Linear(3, seed=4).eval()
    paradigm.of_label.copy_(torch.randn(3, 12))
    lengths, ends = latent_space.path_lengths(View(paradigm))
    e = normal(4, DRAWS["interpolations"], torch.arange(128), 3).double().numpy()
    weight, of_label = paradigm.decoder.weight.double().numpy(), paradigm.of_label.double().numpy()
    for line in range(64):
        points = e[line] + np.linspace(0, 1, 33)[:, None] * (e[64 + line] - e[line])
        x = 1 / (1 + np.exp(-(points @ weight.T + of_label[line % 3])))
        assert float(lengths[line]) == pytest.approx(np.linalg.norm(np.diff(x, axis=0), axis=1).sum(), rel=1e-5)
        assert float(ends[line]) == pytest.approx(np.linalg.norm(x[-1] - x[0]), rel=1e-5)


@pytest.mark.parametrize("dim", [1, 5, 20])
def test_lipschitz_constants_of_a_linear_decoder_against_numpy(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    paradigm = Linear(dim, seed=2).eval()
    paradigm.of_label.copy_(torch.randn(3, 12))
    e = normal(2, DRAWS["smoothness"], torch.arange(64), dim).double().numpy()
    weight, of_label = paradigm.decoder.weight.double().numpy(), paradigm.of_label.double().numpy()
    x = 1 / (1 + np.exp(-(e @ weight.T + of_label[np.arange(64) % 3])))
    expected = [np.linalg.norm((p * (1 - p))[:, None] * weight, 2) for p in x]
    np.testing.assert_allclose(latent_space.lipschitz(View(paradigm)).numpy(), expected, rtol=1e-4)
    monkeypatch.setattr("encdec.evaluation.base.BLOCK", 30)
    monkeypatch.setattr("encdec.evaluation.latent_space.BLOCK", 30)
    np.testing.assert_allclose(latent_space.lipschitz(View(paradigm)).numpy(), expected, rtol=1e-4)


def test_the_lipschitz_constant_where_the_sigmoid_is_steepest_is_a_quarter_of_the_weights_norm() -> None:
    paradigm = Linear(2)
    paradigm.decoder.weight.mul_(0.02)  # so all pixel means stay near 1/2
    expected = float(torch.linalg.matrix_norm(paradigm.decoder.weight, 2)) / 4
    constants = latent_space.lipschitz(View(paradigm))
    assert float(constants.max()) == pytest.approx(expected, rel=2e-3)


def test_a_decoder_that_ignores_its_code_travels_nowhere() -> None:
    paradigm = Linear()
    paradigm.decoder.weight.zero_()
    paradigm.of_label.copy_(torch.randn(3, 12))
    test = random_images(400)
    figures = evaluate(paradigm, random_images(30), test)
    for name in ("path_length", "lipschitz_mean", "lipschitz_max"):
        assert figures.values[name].value == 0
    assert "whatever its code" in figures.undefined["path_ratio"]
    x = pixels_of(test)
    between = torch.cdist(x, x)[~torch.eye(400, dtype=torch.bool)]
    reference = figures.values["path_length"].reference
    assert reference == pytest.approx(float(between.mean()), rel=0.05)


def test_the_path_ratio_of_nearly_straight_paths_is_one() -> None:
    paradigm = Linear()
    paradigm.decoder.weight.mul_(0.05)
    assert evaluate(paradigm, random_images(30), random_images(30)).values["path_ratio"].value == pytest.approx(
        1, abs=1e-3
    )


def test_coarse_weights_have_no_lipschitz_constant() -> None:
    figures = Figures()
    latent_space.add_smoothness(figures, View(Linear().to(torch.bfloat16)), random_images(20))
    assert "bfloat16" in figures.undefined["lipschitz_max"]
    assert "path_length" in figures.values


# ---------------------------------------------------------------------- active units


def test_active_units_are_the_dimensions_that_vary_with_the_image() -> None:
    figures = Figures()
    means = torch.randn(500, 4) * torch.tensor([1.0, 0.2, 0.05, 0.0]) + 3
    add_active_units(figures, "active_units", means)
    assert figures.values["active_units"].value == 2
    assert figures.values["active_units"].unit == "of 4 dimensions"
    add_active_units(figures, "alone", means[:1])
    assert "at least 2" in figures.undefined["alone"]


def test_active_units_of_a_vae_against_its_encoder() -> None:
    paradigm = VAE(image_shape=SHAPE, num_classes=3, latent_dim=6)
    test = random_images(50)
    means, _ = paradigm.posterior(Batch(pixels_of(test).float().unflatten(1, SHAPE), test.labels, test.labels))
    figures = evaluate(paradigm, random_images(30), test, optimised_means=torch.zeros(50, 6))
    expected = int((means.double().numpy().var(0) > 0.01).sum())
    assert figures.values["active_units"].value == expected
    assert figures.values["active_units_optimised"].value == 0


# ---------------------------------------------------------------------- contradictions


def test_targets_against_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    images, codes = random_images(50), torch.randn(40, 3)
    positions = torch.arange(40) + 10
    whole, blocks = Figures(), Figures()
    add_targets(whole, images, positions, {"encoder": codes, "paired": None}, CPU)
    x = pixels_of(images)[10:].numpy()
    u = x - x.mean(0)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    nearest = NearestNeighbors(n_neighbors=1).fit(codes.numpy()).kneighbors(return_distance=False)[:, 0]
    (figure,) = whole.values.values()
    assert figure.value == pytest.approx((u * u[nearest]).sum(1).mean(), rel=1e-5)
    assert figure.reference == pytest.approx((u @ u.T)[~np.eye(40, dtype=bool)].mean(), rel=1e-4)
    monkeypatch.setattr("encdec.evaluation.base.BLOCK", 12 * 7)
    add_targets(blocks, images, positions, {"encoder": codes}, CPU)
    assert blocks.values["target_near_encoder"].value == pytest.approx(figure.value, rel=1e-5)


def test_near_codes_of_equal_images_agree_and_of_opposite_images_contradict() -> None:
    pixels = torch.zeros(40, *SHAPE, dtype=torch.uint8)
    pixels[1::2] = 255
    images, figures = InMemoryImages(pixels, torch.zeros(40).long()), Figures()
    alike, opposite = torch.randn(40, 2), torch.randn(40, 2)
    alike[:, 0] += 1000.0 * (torch.arange(40) % 2)
    opposite[1::2] = opposite[::2] + 1e-6
    add_targets(figures, images, torch.arange(40), {"alike": alike, "opposite": opposite}, CPU)
    assert figures.values["target_near_alike"].value == pytest.approx(1)
    assert figures.values["target_near_opposite"].value == pytest.approx(-1)


def test_targets_of_constant_images_are_undefined() -> None:
    images = InMemoryImages(torch.full((20, *SHAPE), 91, dtype=torch.uint8), torch.zeros(20).long())
    figures = Figures()
    add_targets(figures, images, torch.arange(20), {"random": torch.randn(20, 2)}, CPU)
    add_targets(figures, images, torch.arange(1), {"alone": torch.randn(1, 2)}, CPU)
    assert figures.undefined.keys() == {"target_near_random", "target_near_alone"}
    assert not figures.values


def test_gradients_of_a_linear_model_against_outer_products() -> None:
    paradigm = Linear(3, own_codes=True, num_train=50)
    images, codes = random_images(50), torch.randn(50, 3)
    figures = Figures()
    add_gradients(figures, "random", View(paradigm), images, torch.arange(50), codes)
    x, z, y = pixels_of(images).numpy(), codes.double().numpy(), np.eye(3)[images.labels.numpy()]
    p = 1 / (1 + np.exp(-z @ paradigm.decoder.weight.double().numpy().T))
    of_logits = 2 * (p - x) * p * (1 - p)
    inputs = np.concatenate([z, y], axis=1)
    u = np.stack([np.outer(a, b).ravel() for a, b in zip(of_logits, inputs, strict=True)])
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    nearest = NearestNeighbors(n_neighbors=1).fit(z).kneighbors(return_distance=False)[:, 0]
    near = (u * u[nearest]).sum(1)
    assert figures.values["gradient_near_random"].value == pytest.approx(near.mean(), rel=1e-4)
    assert figures.values["gradient_conflict_random"].value == pytest.approx((near < 0).mean())
    everything = (u @ u.T)[~np.eye(50, dtype=bool)].mean()
    assert figures.values["gradient_cosine_random"].value == pytest.approx(everything, rel=1e-3)
    assert figures.values["gradient_near_random"].reference == pytest.approx(everything, rel=1e-3)


@pytest.mark.parametrize(("first", "second", "cosine", "conflict"), [(80, 80, 1, 0), (0, 255, -1, 1)])
def test_equal_targets_agree_and_opposite_targets_contradict(
    first: int, second: int, cosine: float, conflict: float
) -> None:
    pixels = torch.full((2, *SHAPE), first, dtype=torch.uint8)
    pixels[1] = second
    images, figures = InMemoryImages(pixels, torch.zeros(2).long()), Figures()
    paradigm = Linear()
    paradigm.decoder.weight.zero_()  # pixel means of 1/2, halfway between both targets
    add_gradients(figures, "random", View(paradigm), images, torch.arange(2), torch.ones(2, 2))
    assert figures.values["gradient_near_random"].value == pytest.approx(cosine, abs=1e-5)
    assert figures.values["gradient_cosine_random"].value == pytest.approx(cosine, abs=1e-5)
    assert figures.values["gradient_conflict_random"].value == conflict


def test_gradients_without_a_direction_are_undefined() -> None:
    images, figures = random_images(20), Figures()
    silent, frozen = Linear(), Linear().requires_grad_(False)
    silent.decoder.weight.fill_(1e9)  # the sigmoid's derivative is zero
    add_gradients(figures, "silent", View(silent), images, torch.arange(20), torch.randn(20, 2).abs() + 1)
    add_gradients(figures, "frozen", View(frozen), images, torch.arange(20), torch.randn(20, 2))
    add_gradients(figures, "alone", View(Linear()), images, torch.arange(1), torch.randn(1, 2))
    assert not figures.values
    assert len(figures.undefined) == 9


def test_gradients_leave_no_trace_on_the_paradigm() -> None:
    paradigm = VAE(image_shape=SHAPE, num_classes=3, latent_dim=2)
    evaluate(paradigm, random_images(20), random_images(20))
    assert all(parameter.grad is None for parameter in paradigm.parameters())


# ---------------------------------------------------------------------- the whole


COMMON = {"path_length", "path_ratio", "lipschitz_mean", "lipschitz_max"}


def pairing(name: str) -> set[str]:
    return {f"{kind}_{name}" for kind in ("target_near", "gradient_near", "gradient_conflict", "gradient_cosine")}


@pytest.mark.parametrize(
    ("paradigm", "names"),
    [
        (EncoderlessVAE(image_shape=SHAPE, latent_dim=3), set()),
        (ConditionalDecoder(image_shape=SHAPE, num_classes=3, latent_dim=3), set()),
        (AE(image_shape=SHAPE, latent_dim=3), {"neighbours_encoder", *pairing("encoder")}),
        (VAE(image_shape=SHAPE, latent_dim=3), {"neighbours_encoder", "active_units", *pairing("encoder")}),
        (
            EncoderlessVAE(image_shape=SHAPE, latent_dim=3, num_prior_samples=8),
            {"neighbours_encoder", *pairing("encoder")},
        ),
        (
            EncoderlessVAE(image_shape=SHAPE, latent_dim=3, codes="fixed"),
            {"neighbours_paired", "mse_paired", *pairing("paired")},
        ),
        (Linear(own_codes=True, num_train=70), {"neighbours_paired", "mse_paired", *pairing("paired")}),
    ],
    ids=["fresh", "decoder", "ae", "vae", "best of 8", "fixed", "table"],
)
def test_a_paradigm_has_the_figures_of_its_pairings(paradigm: Paradigm, names: set[str]) -> None:
    figures = evaluate(paradigm, random_images(70), random_images(60, seed=1))
    assert figures.values.keys() == COMMON | pairing("random") | names
    assert not figures.undefined


def test_optimised_codes_are_those_of_the_first_test_images() -> None:
    test = random_images(60)
    figures = evaluate(Linear(), random_images(30), test, optimised_codes=pixels_of(test)[:40].float())
    figure = figures.values["neighbours_optimised"]
    assert figure.value == 1
    assert figure.reference == pytest.approx(10 / 39)


def test_paired_error_against_numpy() -> None:
    paradigm, train = Linear(own_codes=True, num_train=45), random_images(45)
    figure = evaluate(paradigm, train, random_images(20)).values["mse_paired"]
    logits = paradigm.codes.double().numpy() @ paradigm.decoder.weight.double().numpy().T
    errors = ((1 / (1 + np.exp(-logits)) - pixels_of(train).numpy()) ** 2).mean(1)
    assert figure.value == pytest.approx(errors.mean(), rel=1e-5)
    assert figure.standard_error == pytest.approx(errors.std(ddof=1) / np.sqrt(45), rel=1e-4)


def test_two_processes_and_small_blocks_give_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    paradigm = VAE(image_shape=SHAPE, num_classes=3, latent_dim=3).eval()
    train, test = random_images(41), random_images(33, seed=1)
    alone = evaluate(paradigm, train, test)
    monkeypatch.setattr("encdec.evaluation.base.BLOCK", 12 * 5)
    calls: list[Tensor] = []

    # both processes take the same steps: the first only leaves its parts, the second finds them
    def leave(part: Tensor) -> list[Tensor]:
        calls.append(part)
        return [part, part]

    first = Processes(0, 2, leave)
    evaluate_latent(View(paradigm), train, test, None, None, Figures(), first, lambda share: None)
    figures = Figures()
    second = Processes(1, 2, lambda part: [calls.pop(0), part])
    evaluate_latent(View(paradigm), train, test, None, None, figures, second, lambda share: None)
    assert figures.values.keys() == alone.values.keys()
    for name, figure in figures.values.items():
        assert figure.value == pytest.approx(alone.values[name].value, rel=1e-4, abs=1e-5), name


def test_a_split_of_one_image_gives_sentences() -> None:
    figures = evaluate(VAE(image_shape=SHAPE, latent_dim=3), random_images(1), random_images(1))
    assert {"neighbours_encoder", "active_units", *pairing("random"), *pairing("encoder")} == set(figures.undefined)
    assert figures.values["path_length"].reference is None


# ---------------------------------------------------------------------- pictures


def test_strips_go_straight_from_the_first_half_to_the_second() -> None:
    ends = torch.randn(6, 4)
    z = strip_codes(ends, 5)
    assert z.shape == (3, 5, 4)
    torch.testing.assert_close(z[:, 0], ends[:3])
    torch.testing.assert_close(z[:, -1], ends[3:])
    torch.testing.assert_close(z[:, 1], 0.75 * ends[:3] + 0.25 * ends[3:])


@pytest.mark.parametrize("count", [0, 1, 5, 40])
@pytest.mark.parametrize("encoder", [True, False])
def test_interpolations_are_pictures(count: int, encoder: bool) -> None:
    shape: Shape = (3, 6, 5)
    paradigm = (VAE if encoder else ConditionalDecoder)(image_shape=shape, num_classes=3, latent_dim=2).eval()
    view, test = View(paradigm), random_images(count, shape=shape)
    picture = interpolations(view, test)
    rows = count // 2 if encoder and 2 <= count < 16 else 8
    factor = -(-256 // (rows * 7 + 1))
    assert picture.shape == (3, factor * (rows * 7 + 1), factor * (9 * 6 + 1))
    assert 0 <= float(picture.min()) <= float(picture.max()) <= 1
    assert torch.equal(picture, interpolations(view, test))


def test_interpolations_end_in_reconstructions() -> None:
    paradigm = VAE(image_shape=SHAPE, num_classes=3, latent_dim=2).eval()
    test = random_images(4)
    picture = interpolations(View(paradigm), test, rows=2, steps=3)
    x = pixels_of(test).float().unflatten(1, SHAPE)
    reconstruction = paradigm.reconstruct(Batch(x, test.labels, torch.arange(4)))
    assert reconstruction is not None
    factor = picture.shape[1] // (2 * 4 + 1)
    small = picture[:, ::factor, ::factor]
    torch.testing.assert_close(small[0, 1:4, 1:5], reconstruction[0, 0])
    torch.testing.assert_close(small[0, 5:8, 11:15], reconstruction[3, 0])


@pytest.mark.parametrize("dim", [1, 2, 32])
@pytest.mark.parametrize("codes", ["random", "constant", "single"])
def test_a_map_of_codes_is_a_picture(dim: int, codes: str) -> None:
    z = {"random": torch.randn(300, dim), "constant": torch.ones(30, dim), "single": torch.randn(1, dim)}[codes]
    labels = torch.arange(len(z)) % 3
    classes = ("a $x", "_b", "a very long name of a class in 猫")
    picture = latent_map(z, labels, classes)
    assert picture.shape == (3, 700, 800)
    assert picture.dtype == torch.float32
    assert 0 <= float(picture.min()) < float(picture.max()) <= 1
    if codes == "random":
        assert torch.equal(picture, latent_map(z, labels, classes))


def test_a_map_of_many_classes_and_of_one() -> None:
    z = torch.randn(300, 5)
    many = latent_map(z, torch.arange(300) % 100, tuple(map(str, range(100))))
    one = latent_map(z, torch.zeros(300).long(), ("image",))
    assert many.shape == one.shape


def test_a_map_shows_the_principal_components() -> None:
    from encdec.evaluation.latent_pictures import _plane

    z = (torch.randn(200, 5) * torch.tensor([1.0, 5, 2, 0.1, 0.5])).double()
    points, names = _plane(z, torch.zeros(200).long())
    centred = z - z.mean(0)
    _, s, vh = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(points.abs(), (centred @ vh[:2].T).abs())
    shares = s.square() / s.square().sum()
    assert f"{float(shares[0]):.0%}" in names[0]
    assert f"{float(shares[1]):.0%}" in names[1]

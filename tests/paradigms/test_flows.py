"""Flow matching and MeanFlow against Gaussians, whose flows are known, and a distribution in two dimensions."""

import importlib
import math
from functools import partial
from typing import Any, cast, final

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import wasserstein_distance
from torch import Tensor

from encdec import plugins
from encdec.networks import MLPVelocity, UNet, Velocity
from encdec.testing.small import Blobs, quiet_trainer, small_trainer
from encdec.types import Batch, Shape, UserError
from tests.conftest import ROOT

SHAPE: Shape = (1, 1, 2)
MEAN, DEVIATION = 0.3, 0.2  # of the images, scaled to [−1, 1]
STEPS = 1500


def _class(name: str, file: str) -> type[Any]:
    plugins.load(ROOT / "plugins")
    return cast(type[Any], getattr(importlib.import_module(f"encdec_plugins.{file}"), name))


flow_matching, mean_flow = (
    partial(_class, "FlowMatching", "flow_matching"),
    partial(_class, "MeanFlow", "mean_flow"),
)


def _moments(t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of (1 − t) N(0, 1) + t N(MEAN, DEVIATION²), independent."""
    return t * MEAN, ((1 - t) ** 2 + (t * DEVIATION) ** 2).sqrt()


def _velocity(x: Tensor, t: Tensor) -> Tensor:
    """E[x1 − x0 | x_t = x] of that path: the regression of normally distributed numbers."""
    mean, deviation = _moments(t)
    return MEAN + (t * DEVIATION**2 - (1 - t)) / deviation**2 * (x - mean)


class _Exact(Velocity):
    """The velocity of flow matching between noise and N(MEAN, DEVIATION²), plus something else."""

    def __init__(self, image_shape: Shape, times: int, other: float = 0.0) -> None:
        super().__init__(image_shape, times)
        self.other = torch.nn.Parameter(torch.tensor(other))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return _velocity(x, t[:, :, None, None]) + self.other * (x + t[:, :, None, None])


@final
class _ExactMean(Velocity):
    """The mean velocity between r and t of the same flow, in MeanFlow's time, in which 1 is noise."""

    def __init__(self, image_shape: Shape, times: int) -> None:
        super().__init__(image_shape, times)
        self.nothing = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        r, t = t[:, :1, None, None], t[:, 1:, None, None]
        (mean_r, deviation_r), (mean_t, deviation_t) = _moments(1 - r), _moments(1 - t)
        return (x - mean_r - deviation_r / deviation_t * (x - mean_t)) / (t - r) + self.nothing


def _gaussian_batch(count: int, shape: Shape = SHAPE) -> Batch:
    noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = (MEAN + DEVIATION * noise) / 2 + 0.5
    return Batch(x, torch.zeros(count, dtype=torch.int64), torch.arange(count), "train")


def test_the_loss_is_least_at_the_known_velocity_between_gaussians() -> None:
    """Its value there is the variance that the velocity can't know: E‖x1 − x0‖² − E‖v‖², an integral over t."""
    batch = _gaussian_batch(200_000)
    values = {}
    for other in (-0.1, 0.0, 0.1):
        flow = flow_matching()(image_shape=SHAPE, velocity=partial(_Exact, other=other)).double().eval()
        values[other] = float(flow.measured_losses(batch).loss.mean())
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    _, deviation = _moments(t)
    explained = MEAN**2 + ((t * DEVIATION**2 - (1 - t)) / deviation).square()
    expected = 2 * (MEAN**2 + 1 + DEVIATION**2 - float(torch.trapezoid(explained, t)))
    assert values[0.0] == pytest.approx(expected, rel=0.02)
    assert min(values, key=values.__getitem__) == 0.0


def test_paired_noise_flows_along_the_straight_lines_of_optimal_transport() -> None:
    """Between Gaussians in one dimension the best pairing is x1 = MEAN + DEVIATION x0, so v leaves nothing over."""
    shape, count = (1, 1, 1), 1000
    batch = _gaussian_batch(count, shape)

    @final
    class Transport(_Exact):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            t = t[:, :, None, None]
            return MEAN + (DEVIATION - 1) * (x - t * MEAN) / (1 - t + t * DEVIATION)

    left = {}
    for pairing in ("random", "batch"):
        flow = flow_matching()(image_shape=shape, velocity=Transport, pairing=pairing).double().eval()
        left[pairing] = float(flow.measured_losses(batch).loss.mean())
    assert left["batch"] < 0.01 < 0.2 < left["random"]


def test_a_sample_is_the_end_of_the_flow() -> None:
    noise = torch.randn(20, 2, dtype=torch.float64)
    flow = flow_matching()(image_shape=SHAPE, velocity=_Exact, steps=100).double()
    samples = flow.generate(noise, torch.zeros(20, dtype=torch.int64))
    exact = (MEAN + DEVIATION * noise).reshape(-1, *SHAPE) / 2 + 0.5  # the flow keeps quantiles
    torch.testing.assert_close(samples.double(), exact, atol=3e-4, rtol=0)
    # a network that is solved nowhere but here, against another solver
    torch.manual_seed(0)
    flow = flow_matching()(image_shape=SHAPE, velocity=partial(MLPVelocity, hidden=(16,)), steps=100).double()

    def field(t: float, x: Any) -> Any:
        with torch.no_grad():
            return flow.average(torch.from_numpy(x).reshape(-1, *SHAPE), torch.full((20, 1), t).double()).flatten()

    solved = solve_ivp(field, (0, 1), noise.flatten().numpy(), rtol=1e-8, atol=1e-8).y[:, -1]
    expected = torch.from_numpy(solved).reshape(-1, *SHAPE) / 2 + 0.5
    samples = flow.generate(noise, torch.zeros(20, dtype=torch.int64))
    torch.testing.assert_close(samples.double(), expected.clamp(0, 1), atol=1e-3, rtol=0)


def test_the_mean_velocity_of_a_known_flow_fulfils_the_identity() -> None:
    mean_velocity = importlib.import_module(f"{mean_flow().__module__}").mean_velocity
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(50, *SHAPE, generator=generator, dtype=torch.float64)
    r, t = torch.rand(2, 50, generator=generator, dtype=torch.float64).sort(0).values
    exact = _ExactMean(SHAPE, 2).double()
    v = -_velocity(z, 1 - t[:, None, None, None])  # MeanFlow's time goes the other way
    u, target = mean_velocity(exact, z, v, r, t)
    torch.testing.assert_close(u, target)
    with pytest.raises(AssertionError):  # not that of another flow
        torch.testing.assert_close(*mean_velocity(exact, z, 1.1 * v, r, t))
    # finite differences along the flow give the same derivative
    step = 1e-6
    later = exact(z + step * v, torch.stack([r, t + step], 1))
    earlier = exact(z - step * v, torch.stack([r, t - step], 1))
    along = (later - earlier) / (2 * step)
    torch.testing.assert_close(target, v - (t - r)[:, None, None, None] * along, rtol=1e-4, atol=1e-6)


def test_one_call_of_the_mean_velocity_makes_the_samples() -> None:
    noise = torch.randn(20, 2, dtype=torch.float64)
    flow = mean_flow()(image_shape=SHAPE, velocity=_ExactMean).double()
    samples = flow.generate(noise, torch.zeros(20, dtype=torch.int64))
    torch.testing.assert_close(samples.double(), (MEAN + DEVIATION * noise).reshape(-1, *SHAPE) / 2 + 0.5)


@pytest.mark.parametrize("velocity", [MLPVelocity, UNet], ids=lambda cls: cls.__name__)
def test_the_derivative_along_the_flow_is_that_of_finite_differences(velocity: type[Velocity]) -> None:
    """Of the networks that are shipped, in both times and the image, and so is the gradient of what it is part of."""
    torch.manual_seed(0)
    network = velocity((1, 5, 6), 2).double()
    mean_velocity = importlib.import_module(f"{mean_flow().__module__}").mean_velocity
    z, v = torch.randn(2, 3, 1, 5, 6, dtype=torch.float64)
    r, t = torch.rand(2, 3, dtype=torch.float64).sort(0).values
    u, target = mean_velocity(network, z, v, r, t)
    assert u.requires_grad
    assert not target.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(u, network(z, torch.stack([r, t], 1)))
        step = 1e-5
        later, earlier = (network(z + h * v, torch.stack([r, t + h], 1)) for h in (step, -step))
        expected = v - (t - r)[:, None, None, None] * (later - earlier) / (2 * step)
    torch.testing.assert_close(target, expected, rtol=1e-5, atol=1e-6)
    assert (target - v).abs().max() > 1e-3, "the derivative is part of it"
    with torch.inference_mode():  # as in a validation
        measured = mean_velocity(network, *(one.clone() for one in (z, v, r, t)))
    for found, trained in zip(measured, (u, target), strict=True):
        torch.testing.assert_close(found, trained)


def test_noise_of_more_numbers_than_the_hidden_layers_have_does_not_stay() -> None:
    """The velocity of a flow to one image is −x / (1 − t) there: of each pixel's own noise."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = MLPVelocity((1, 8, 8), 1, hidden=(2,))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(300):
        t = 0.8 * torch.rand(64, 1, generator=generator)
        x = (1 - t)[:, :, None, None] * torch.randn(64, 1, 8, 8, generator=generator)
        error = (network(x, t) + x / (1 - t)[:, :, None, None]).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert error.item() < 0.01, "the mean square of the velocity is 1, of which two numbers explain a share of 2 / 64"


@pytest.mark.parametrize("name", ["flow_matching", "mean_flow"])
def test_a_flow_says_that_images_have_no_latents(name: str) -> None:
    cls = flow_matching() if name == "flow_matching" else mean_flow()
    flow, images = cls(image_shape=(1, 8, 8), velocity=MLPVelocity), torch.rand(2, 1, 8, 8)
    calls: dict[str, tuple[Tensor, ...]] = {
        "encode": (images,),
        "reconstruct": (images,),
        "interpolate": (images, images),
    }
    for method, given in calls.items():
        with pytest.raises(UserError, match=f"{cls.__name__} has no latents of images"):
            getattr(flow, method)(*given)
    assert flow.interpolate(torch.zeros(1, 64), torch.ones(1, 64), 3).shape == (1, 3, 1, 8, 8), "of noise"


def test_the_loss_of_mean_flow_is_weighted_and_no_image_is_left_out() -> None:
    torch.manual_seed(0)
    batch = _gaussian_batch(300)
    flow = (
        mean_flow()(image_shape=SHAPE, velocity=MLPVelocity, apart=0.0, times="logit_normal", power=0.5).double().eval()
    )
    losses = flow.measured_losses(batch)
    torch.testing.assert_close(losses.loss, losses.terms["error"] / (losses.terms["error"] + 1e-3).sqrt())
    # with both times equal it is flow matching, at logit-normal times
    flow.randomness.restart()
    noise = flow.noise(batch.index, 5)
    t = (noise[:, :2] - 0.4).sigmoid().max(1).values
    way, epsilon = t[:, None, None, None], noise[:, 3:].reshape(-1, *SHAPE)
    x = 2 * batch.x - 1
    u = flow.average((1 - way) * x + way * epsilon, torch.stack([t, t], 1))
    torch.testing.assert_close(losses.terms["error"], (u - (epsilon - x)).square().sum((1, 2, 3)))


def test_two_processes_pair_the_noise_as_one_does() -> None:
    """By steps of plain descent, which show its size; without pairing the steps are others."""
    trained = []
    for pairing, processes in (("batch", 1), ("batch", 2), ("random", 1)):
        torch.manual_seed(0)
        flow = flow_matching()(
            image_shape=(1, 8, 8),
            velocity=partial(MLPVelocity, hidden=(16,)),
            pairing=pairing,
            optimizer=partial(torch.optim.SGD, lr=1e-3),
        )
        before = [parameter.detach().clone() for parameter in flow.velocity.parameters()]
        several = {"devices": 2, "strategy": "ddp_fork"} if processes == 2 else {}
        with quiet_trainer():
            small_trainer(max_epochs=2, **several).fit(flow, Blobs(batch_size=12 // processes, val_fraction=0.25))
        trained.append([parameter.detach() for parameter in flow.velocity.parameters()])
    differences = []
    for old, one, two, unpaired in zip(before, *trained, strict=True):
        moved = (one - old).abs().max()
        assert (two - one).abs().max() < 0.01 * moved
        differences.append((unpaired - one).abs().max() / moved)
    assert max(differences) > 0.03


def _spots(count: int, seed: int) -> Tensor:
    """Images of two pixels: three spots, of which the first has half of them."""
    generator = torch.Generator().manual_seed(seed)
    spots = torch.tensor([[0.2, 0.2], [0.8, 0.3], [0.5, 0.8]])
    spot = torch.multinomial(torch.tensor([0.5, 0.25, 0.25]), count, replacement=True, generator=generator)
    return (spots[spot] + 0.05 * torch.randn(count, 2, generator=generator)).reshape(-1, *SHAPE)


def _distance(samples: Tensor, images: Tensor) -> float:
    """Sliced W1: the mean over 20 directions of the W1 of projections."""
    angles = torch.arange(20) * math.pi / 20
    axes = torch.stack([angles.cos(), angles.sin()])
    projected = (samples.flatten(1).float() @ axes).numpy(), (images.flatten(1).float() @ axes).numpy()
    return float(np.mean([wasserstein_distance(a, b) for a, b in zip(projected[0].T, projected[1].T, strict=True)]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "most"),
    [("flow_matching", {}, 0.02), ("flow_matching", {"pairing": "batch"}, 0.02), ("mean_flow", {}, 0.11)],
)
def test_samples_in_two_dimensions_have_the_distribution_of_the_data(
    name: str, settings: dict[str, Any], most: float
) -> None:
    cls = flow_matching() if name == "flow_matching" else mean_flow()
    torch.manual_seed(0)
    flow = cls(image_shape=SHAPE, velocity=partial(MLPVelocity, hidden=(64, 64, 64)), decay=0.99, **settings)
    images, y, index = _spots(20_000, 1), torch.zeros(256, dtype=torch.int64), torch.arange(256)
    optimizer = torch.optim.Adam(flow.velocity.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        batch = Batch(images[torch.randint(len(images), (256,))], y, index, "train")
        optimizer.zero_grad()
        flow.losses(batch).loss.mean().backward()
        optimizer.step()
        schedule.step()
        flow.after_step(batch)
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(5))
    samples, test = flow.eval().sample(torch.zeros(4000, dtype=torch.int64), noise), _spots(4000, 2)
    assert _distance(_spots(4000, 3), test) < 0.006, "what two draws of the data differ by"
    assert _distance(samples, test) < most
    if name == "mean_flow":  # one call, of a continuous map: half as far as what one call of a velocity gives, the mean
        mean = images.mean(0, keepdim=True).expand(len(test), -1, -1, -1)
        assert _distance(mean, test) > 0.21
        return
    near_first = (samples.flatten(1) - torch.tensor([0.2, 0.2])).norm(dim=1) < 0.2
    assert float(near_first.float().mean()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("flow", {"pairing": "tree"}, "pairing is 'tree', but it must be one of 'random', 'batch'"),
        ("flow", {"steps": 0}, "steps"),
        ("flow", {"decay": 1.0}, "The decay of a moving average is 1.0"),
        ("mean", {"apart": 1.5}, "apart is 1.5, but a share must be in"),
        (
            "mean",
            {"times": "normal"},
            "times is 'normal'.*one of 'uniform', 'logit_normal'; did you mean",
        ),
        ("mean", {"power": -1.0}, "power is -1.0, but it can't be negative"),
    ],
)
def test_settings_of_no_flow_are_refused(file: str, settings: dict[str, Any], message: str) -> None:
    cls = flow_matching() if file == "flow" else mean_flow()
    with pytest.raises(UserError, match=message):
        cls(image_shape=SHAPE, velocity=MLPVelocity, **settings)

"""Gradients of gradients: of every loss and observation model, against torch's numerical ones and plain formulas."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap
from torch.nn import functional

from encdec.objectives import losses
from encdec.objectives.metrics import PIXEL_TERMS
from encdec.objectives.observations import Bernoulli, Gaussian, Observation

Loss = Callable[[Tensor, Tensor], Tensor]
B, K, SHAPE = 3, 4, (2, 2, 3)
MODELS: dict[str, Observation] = {"bernoulli": Bernoulli(), "gaussian": Gaussian(0.3)}
SINGLE: dict[str, Loss] = {
    "squared_error": losses.squared_error,
    "pixel_squared_error": losses.pixel_squared_error,
    "bernoulli_nll": losses.bernoulli_nll,
    "gaussian_nll": lambda logits, x: losses.gaussian_nll(logits, x, 0.3),
    "gaussian_kl": lambda logits, x: losses.gaussian_kl(logits.flatten(1), x.flatten(1)),
    **{name: model.nll for name, model in MODELS.items()},
    **{f"metric {name}": term for name, term in PIXEL_TERMS.items()},
}
"""(B, …), (B, …) -> (B,)."""
ALL_PAIRS: dict[str, Loss] = {
    "bernoulli_nll_matrix": losses.bernoulli_nll_matrix,
    "squared_error_matrix": losses.squared_error_matrix,
    "gaussian_nll_matrix": lambda mean, x: losses.gaussian_nll_matrix(mean, x, 0.3),
    "prior_nll": lambda logits, x: losses.prior_nll(losses.bernoulli_nll_matrix(logits, x)).bound,
    "bernoulli_prior_nll": lambda logits, x: losses.bernoulli_prior_nll(logits, x).bound,
    "gaussian_prior_nll": lambda mean, x: losses.gaussian_prior_nll(mean, x, 0.3).bound,
    **{f"{name} nll_matrix": model.nll_matrix for name, model in MODELS.items()},
    "bernoulli prior_nll": lambda logits, x: MODELS["bernoulli"].prior_nll(logits, x).bound,
    "gaussian prior_nll": lambda logits, x: MODELS["gaussian"].prior_nll(logits, x).bound,
}
"""(K, …), (B, …) -> (B, K) or (B,)."""
LOSSES = {name: (B, loss) for name, loss in SINGLE.items()} | {name: (K, loss) for name, loss in ALL_PAIRS.items()}


def inputs(rows: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return 2 * torch.randn(rows, *SHAPE, dtype=dtype), torch.rand(B, *SHAPE, dtype=dtype)


@pytest.mark.parametrize("of", ["logits", "x", "both"])
@pytest.mark.parametrize("name", LOSSES)
def test_first_and_second_derivatives(name: str, of: str) -> None:
    rows, loss = LOSSES[name]
    logits, x = inputs(rows)
    logits.requires_grad_(of != "x")
    x.requires_grad_(of != "logits")
    assert gradcheck(loss, (logits, x))
    assert gradgradcheck(loss, (logits, x))


@pytest.mark.parametrize("name", ["bernoulli", "gaussian", "pixel_squared_error", "bernoulli prior_nll"])
def test_third_derivatives(name: str) -> None:
    rows, loss = LOSSES[name]
    logits, x = inputs(rows)

    def gradient(logits: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(loss(logits, x).square().sum(), logits, create_graph=True)
        return found

    assert gradgradcheck(gradient, logits.requires_grad_())


def test_both_pixel_errors_of_one_output() -> None:
    """An objective that is made of both."""
    logits, x = inputs(B)

    def both(logits: Tensor) -> Tensor:
        output = 1.5 * logits
        return losses.pixel_squared_error(output, x) * losses.bernoulli_nll(output, x)

    assert gradgradcheck(both, logits.requires_grad_())


def test_measuring_an_output_changes_no_gradient_of_its_loss() -> None:
    """As a training step does, with and without a graph."""
    logits, x = inputs(B)
    logits.requires_grad_()
    with torch.no_grad():
        losses.bernoulli_nll(logits, x)
    loss = losses.bernoulli_nll(logits, x)
    with torch.no_grad():
        assert not losses.pixel_squared_error(logits, x).requires_grad
    (first,) = torch.autograd.grad(loss.sum(), logits, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), logits)
    p = logits.detach().sigmoid()
    torch.testing.assert_close(second, p * (1 - p))


class Network(nn.Module):
    """An encoder and a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh())
        self.decoder = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 36), nn.Unflatten(1, (1, 6, 6)))


def plain_cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    return (functional.softplus(logits, threshold=40) - x * logits).flatten(1).sum(1)


def plain_pairs(logits: Tensor, x: Tensor) -> Tensor:
    return functional.softplus(logits, threshold=40).flatten(1).sum(1) - x.flatten(1) @ logits.flatten(1).T


def plain_squares(logits: Tensor, x: Tensor) -> Tensor:
    return (logits.sigmoid() - x).square().flatten(1).sum(1)


def plain_square_pairs(logits: Tensor, x: Tensor) -> Tensor:
    return (logits.sigmoid().unsqueeze(0) - x.unsqueeze(1)).square().flatten(2).sum(2)


def plain_bound(pairs: Tensor) -> Tensor:
    return math.log(pairs.shape[1]) - (-pairs).logsumexp(1)


CONSTANT = 36 * (math.log(0.3) + 0.5 * math.log(2 * math.pi))
PLAIN: dict[str, Loss] = {
    "pixel_squared_error": plain_squares,
    "bernoulli": plain_cross_entropy,
    "gaussian": lambda logits, x: plain_squares(logits, x) / 0.18 + CONSTANT,
    "bernoulli nll_matrix": plain_pairs,
    "gaussian nll_matrix": lambda logits, x: plain_square_pairs(logits, x) / 0.18 + CONSTANT,
    "bernoulli prior_nll": lambda logits, x: plain_bound(plain_pairs(logits, x)),
    "gaussian prior_nll": lambda logits, x: plain_bound(plain_square_pairs(logits, x) / 0.18 + CONSTANT),
}


@pytest.mark.parametrize("of", ["codes", "images"])
@pytest.mark.parametrize("name", PLAIN)
def test_a_gradient_penalty_in_a_small_network_is_that_of_plain_torch(name: str, of: str) -> None:
    """float32, as networks are trained: the penalty is ‖∇ loss‖² of the codes, or of the images through both ways."""
    torch.manual_seed(1)
    network, x = Network(), torch.rand(20, 1, 6, 6)

    def gradients(loss: Loss, dtype: torch.dtype) -> list[Tensor]:
        net, images = copy.deepcopy(network).to(dtype), x.to(dtype, copy=True).requires_grad_(of == "images")
        z = net.encoder(images)
        terms = loss(net.decoder(z), images)
        (slope,) = torch.autograd.grad(terms.sum(), z if of == "codes" else images, create_graph=True)
        penalty = slope.square().flatten(1).sum(1).mean() + terms.mean()
        return [gradient.double() for gradient in torch.autograd.grad(penalty, [*net.parameters()])]

    expected, found = gradients(PLAIN[name], torch.float64), gradients(LOSSES[name][1], torch.float32)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() < 1e-4 * b.norm()


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # torch's own, when jvp is first called
@pytest.mark.parametrize("name", [*PLAIN, "squared_error_matrix", "gaussian_kl"])
def test_the_transforms_of_torch_func(name: str) -> None:
    rows, loss = LOSSES[name]
    logits, x = inputs(rows)
    stacked = torch.stack([logits, logits.flip(0)])
    torch.testing.assert_close(
        vmap(loss, (0, None))(stacked, x), torch.stack([loss(each, x) for each in stacked.unbind()])
    )
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, x).square().sum()
    (gradient,) = torch.autograd.grad(value, leaf)
    torch.testing.assert_close(grad(lambda logits: loss(logits, x).square().sum())(logits), gradient)
    direction = torch.randn_like(logits)
    slope = jvp(lambda logits: loss(logits, x).square().sum(), (logits,), (direction,))[1]
    torch.testing.assert_close(slope, (gradient * direction).sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["bernoulli nll_matrix", "gaussian nll_matrix", "bernoulli prior_nll"])
def test_a_gradient_penalty_under_autocast_is_in_full_precision(name: str, dtype: torch.dtype) -> None:
    """Its first gradient is taken within autocast, its second one outside, as in a training step."""
    logits, x = inputs(K, torch.float32)

    def second(full: torch.dtype, autocast: bool = False) -> Tensor:
        leaf = logits.to(full, copy=True).requires_grad_()
        with torch.autocast("cpu", dtype=dtype, enabled=autocast):
            value = LOSSES[name][1](leaf, x.to(full)).square().sum()
            (first,) = torch.autograd.grad(value, leaf, create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaf)[0]

    expected = second(torch.float64).float()
    for found in (second(torch.float32, autocast=True), second(torch.float32)):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())

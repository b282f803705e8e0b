"""Losses against torch.distributions, and their gradients."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence
from torch.nn import functional

from encdec.objectives import losses
from encdec.objectives.observations import Bernoulli as BernoulliObservation
from encdec.objectives.observations import Gaussian, Observation

B, K, SHAPE = 5, 7, (2, 3, 4)


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(B, *SHAPE)


def test_squared_error_is_summed_over_pixels(logits: Tensor) -> None:
    x = torch.rand(B, *SHAPE)
    expected = [
        sum((a - b) ** 2 for a, b in zip(m, t, strict=True))
        for m, t in zip(logits.flatten(1).tolist(), x.flatten(1).tolist(), strict=True)
    ]
    torch.testing.assert_close(losses.squared_error(logits, x), torch.tensor(expected))


def test_bernoulli_nll_of_binary_images(logits: Tensor) -> None:
    x = torch.randint(0, 2, (B, *SHAPE)).float()
    expected = -Independent(Bernoulli(logits=logits), 3).log_prob(x)
    torch.testing.assert_close(losses.bernoulli_nll(logits, x), expected)


def test_bernoulli_nll_of_grey_images_is_the_cross_entropy_with_the_entropy_as_its_minimum() -> None:
    x = torch.rand(B, *SHAPE).clamp(0.01, 0.99)
    entropy = Independent(Bernoulli(probs=x), 3).entropy()
    torch.testing.assert_close(losses.bernoulli_nll(x.logit(), x), entropy)
    assert (losses.bernoulli_nll(x.logit() + 0.1, x) > entropy).all()


@pytest.mark.parametrize("sigma", [0.05, 1.0])
def test_gaussian_nll(logits: Tensor, sigma: float) -> None:
    x = torch.rand(B, *SHAPE)
    expected = -Independent(Normal(logits.sigmoid(), sigma), 3).log_prob(x)
    torch.testing.assert_close(losses.gaussian_nll(logits, x, sigma), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_pixel_errors_and_their_gradients_are_those_of_autograd(dtype: torch.dtype) -> None:
    """Both errors, each alone and mixed, from logits that saturate too; autograd's own operations are the reference."""
    values = torch.cat([torch.randn(B - 1, *SHAPE), torch.full((1, *SHAPE), -40.0)]).to(dtype)
    x = torch.rand(B, *SHAPE)
    for of_squared_error, of_cross_entropy in ((1.0, 0.0), (0.0, 1.0), (0.3, 0.7)):
        logits, reference = values.clone().requires_grad_(), values.clone().requires_grad_()
        full = reference.double()
        target = x.double()
        squared = (full.sigmoid() - target).square().flatten(1).sum(1)
        cross = torch.nn.functional.binary_cross_entropy_with_logits(full, target, reduction="none").flatten(1).sum(1)
        (of_squared_error * squared + of_cross_entropy * cross).sum().backward()
        ours: dict[float, Tensor] = {}
        if of_squared_error:
            ours[of_squared_error] = losses.pixel_squared_error(logits, x)
            torch.testing.assert_close(ours[of_squared_error].double(), squared, rtol=1e-5, atol=1e-5)
        if of_cross_entropy:
            ours[of_cross_entropy] = losses.bernoulli_nll(logits, x)
            torch.testing.assert_close(ours[of_cross_entropy].double(), cross, rtol=1e-5, atol=1e-5)
        torch.stack([weight * value for weight, value in ours.items()]).sum().backward()
        torch.testing.assert_close(logits.grad, reference.grad)


def test_an_image_may_have_a_gradient_too(logits: Tensor) -> None:
    x = torch.rand(B, *SHAPE, requires_grad=True)
    (losses.pixel_squared_error(logits, x) + losses.bernoulli_nll(logits, x)).sum().backward()
    # of ‖x − p‖² and of −x·l + softplus(l)
    torch.testing.assert_close(x.grad, 2 * (x.detach() - logits.sigmoid()) - logits)


def test_pixel_errors_of_large_images_are_exact() -> None:
    logits, x = 4 * torch.randn(2, 3, 256, 256), torch.rand(2, 3, 256, 256)
    full, target = logits.double(), x.double()
    squared = (full.sigmoid() - target).square().flatten(1).sum(1)
    cross = torch.nn.functional.binary_cross_entropy_with_logits(full, target, reduction="none").flatten(1).sum(1)
    torch.testing.assert_close(losses.pixel_squared_error(logits, x).double(), squared, rtol=5e-6, atol=0)
    torch.testing.assert_close(losses.bernoulli_nll(logits, x).double(), cross, rtol=5e-6, atol=0)


def exact(logits: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error and cross-entropy in float64."""
    logits, x = logits.double(), x.double()
    squared = (logits.sigmoid() - x).square().flatten(1).sum(1)
    return squared, functional.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 10.0, 80.0])
def test_pixel_errors_and_their_gradients_at_any_scale(scale: float) -> None:
    logits, x = scale * torch.randn(9, 2, 13, 31), torch.rand(9, 2, 13, 31)
    leaf, full, weights = logits.clone().requires_grad_(), logits.double().requires_grad_(), torch.rand(9)
    ours = losses.pixel_squared_error(leaf, x), losses.bernoulli_nll(leaf, x)
    for found, expected in zip(ours, exact(full, x), strict=True):
        torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=0)
        gradients = (
            torch.autograd.grad((weights * found).sum(), leaf),
            torch.autograd.grad((weights * expected).sum(), full),
        )
        torch.testing.assert_close(gradients[0][0], gradients[1][0].float(), rtol=1e-5, atol=5e-7)


def test_every_pixel_is_as_exact_as_float32_is() -> None:
    """Of each logit alone, so that no sum hides an error; slopes down to where numbers may be flushed to zero."""
    logits = torch.cat([torch.linspace(-80, 100, 40001), 1e-4 * torch.randn(1000), torch.zeros(1)]).unsqueeze(1)
    leaf, full = logits.clone().requires_grad_(), logits.double().squeeze(1)
    for x, sign in ((torch.zeros_like(logits), 1), (torch.ones_like(logits), -1)):
        found = losses.bernoulli_nll(leaf, x)
        expected = (sign * full).clamp_min(0) + (-full.abs()).exp().log1p()
        torch.testing.assert_close(found.double(), expected, rtol=5e-7, atol=5e-7)
    (means,) = torch.autograd.grad(losses.bernoulli_nll(leaf, torch.zeros_like(logits)).sum(), leaf)
    torch.testing.assert_close(means.squeeze(1).double(), full.sigmoid(), rtol=5e-7, atol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_error_that_is_not_finite_stays_with_its_image(value: float) -> None:
    logits, x = torch.zeros(3, 40), torch.full((3, 40), 0.5)
    logits[1, 7] = value
    cross = losses.bernoulli_nll(logits.requires_grad_(), x)
    assert cross.isfinite().tolist() == [True, False, True]
    if math.isnan(value):
        (slopes,) = torch.autograd.grad(cross.sum(), logits)
        assert slopes.isnan().nonzero().tolist() == [[1, 7]]


@pytest.mark.parametrize("value", [1e30, -1e30, 120.0, -120.0])
def test_logits_of_any_size_have_an_error(value: float) -> None:
    logits, x = torch.full((2, 3), value), torch.full((2, 3), 0.25)
    torch.testing.assert_close(losses.pixel_squared_error(logits, x), torch.full((2,), 3 * ((value > 0) - 0.25) ** 2))
    expected = torch.full((2,), 3 * abs(value) * (0.75 if value > 0 else 0.25))
    torch.testing.assert_close(losses.bernoulli_nll(logits, x), expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda logits, x: (logits.double(), x),
        lambda logits, x: (logits.transpose(2, 3).contiguous().transpose(2, 3), x),
        lambda logits, x: (logits, x.transpose(2, 3).contiguous().transpose(2, 3)),
        lambda logits, x: (logits, x.double()),
        lambda logits, x: (logits[:0], x[:0]),
        lambda logits, x: (logits[::2], x[::2]),
    ],
    ids=["float64", "logits in another order", "x in another order", "x in float64", "none", "every other"],
)
def test_pixel_errors_of_other_types_and_layouts(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    logits, x = change(2 * torch.randn(B, *SHAPE), torch.rand(B, *SHAPE))
    ours = losses.pixel_squared_error(logits, x), losses.bernoulli_nll(logits, x)
    for found, expected in zip(ours, exact(logits, x), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("loss", [losses.pixel_squared_error, losses.bernoulli_nll])
def test_images_of_another_size_are_refused(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises((RuntimeError, ValueError), match="size"):
        loss(torch.zeros(4, 10), torch.zeros(4, 7))


@pytest.mark.parametrize("images", [1, 40])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_the_bound_weighs_each_code_by_its_likelihood(images: int, scale: float) -> None:
    nll = (500 + scale * torch.randn(images, 600)).requires_grad_()
    full = nll.detach().double()
    found = losses.prior_nll(nll)
    expected = math.log(600) - (-full).logsumexp(1)
    torch.testing.assert_close(found.bound.double(), expected, rtol=5e-7, atol=0)
    (weights,) = torch.autograd.grad(found.bound.sum(), nll)
    torch.testing.assert_close(weights.double(), (-full).softmax(1), rtol=1e-4, atol=1e-30)
    assert torch.equal(found.least, nll.detach().amin(1))
    assert torch.equal(found.best, full.argmin(1))


def test_the_first_of_equal_codes_is_the_best_and_an_impossible_one_has_no_weight() -> None:
    nll = torch.tensor([[3.0, 2.0, 2.0], [math.inf, 1.0, math.inf]], requires_grad=True)
    found = losses.prior_nll(nll)
    assert found.best.tolist() == [1, 1]
    expected = torch.tensor([math.log(3) + 2 - math.log(2 + math.exp(-1)), math.log(3) + 1])
    torch.testing.assert_close(found.bound, expected)
    (weights,) = torch.autograd.grad(found.bound.sum(), nll)
    torch.testing.assert_close(weights[1], torch.tensor([0.0, 1.0, 0.0]))


def test_an_image_with_nan_has_no_bound_and_a_code_that_exists() -> None:
    nll = torch.ones(40, 5)
    nll[7, 3] = math.nan
    found = losses.prior_nll(nll)
    for value in (found.bound, found.least):
        assert value.isnan().nonzero().tolist() == [[7]]
    assert 0 <= found.best.min() <= found.best.max() < 5


def test_an_error_is_that_of_the_image_and_the_logits_as_they_are_now(logits: Tensor) -> None:
    """An earlier error of the same logits is not taken for that of another image, of changed logits, or without its
    gradient."""
    x, other = torch.rand(2, B, *SHAPE)
    with torch.no_grad():
        losses.bernoulli_nll(logits.requires_grad_(), x)
    assert losses.bernoulli_nll(logits, x).requires_grad
    expected = -Independent(Bernoulli(logits=logits, validate_args=False), 3).log_prob(other)
    torch.testing.assert_close(losses.bernoulli_nll(logits, other), expected)
    with torch.no_grad():
        logits.mul_(2)
    torch.testing.assert_close(
        losses.pixel_squared_error(logits, x), losses.squared_error(logits.sigmoid(), x), rtol=1e-6, atol=1e-6
    )


def test_gaussian_kl() -> None:
    mean, log_var = torch.randn(B, 6), torch.randn(B, 6)
    posterior = MultivariateNormal(mean, torch.diag_embed(log_var.exp()))
    expected = kl_divergence(posterior, MultivariateNormal(torch.zeros(6), torch.eye(6)))
    torch.testing.assert_close(losses.gaussian_kl(mean, log_var), expected)


@pytest.mark.parametrize("observation", [BernoulliObservation(), Gaussian(0.3)])
def test_nll_matrix_is_the_nll_of_all_pairs(observation: Observation) -> None:
    logits, x = torch.randn(K, *SHAPE), torch.rand(B, *SHAPE)
    pairs = [[observation.nll(logits[k : k + 1], x[b : b + 1]).item() for k in range(K)] for b in range(B)]
    torch.testing.assert_close(observation.nll_matrix(logits, x), torch.tensor(pairs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("observation", [BernoulliObservation(), Gaussian(0.3)])
def test_gradients_of_all_pairs_and_of_their_average_are_right(observation: Observation) -> None:
    logits = (3 * torch.randn(K, *SHAPE, dtype=torch.float64)).requires_grad_()
    x = torch.rand(B, *SHAPE, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(observation.nll_matrix, (logits, x))
    assert torch.autograd.gradcheck(
        lambda logits: losses.prior_nll(observation.nll_matrix(logits, x.detach())).bound, logits
    )


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_nll_matrix_is_as_exact_as_float32_allows(scale: float) -> None:
    logits, x = scale * torch.randn(K, 1, 28, 28), torch.rand(B, 1, 28, 28)
    exact = BernoulliObservation().nll_matrix(logits.double(), x.double())
    torch.testing.assert_close(
        BernoulliObservation().nll_matrix(logits, x).double(), exact, rtol=1e-6, atol=scale * 1e-4
    )


@pytest.mark.parametrize("observation", [BernoulliObservation(), Gaussian(0.3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bound_of_an_observation_model_is_that_of_its_matrix(observation: Observation, dtype: torch.dtype) -> None:
    """Whose own way, at less cost, is this; values, gradients, the best code and its nll."""
    logits, x = (3 * torch.randn(K, *SHAPE, dtype=dtype)).requires_grad_(), torch.rand(B, *SHAPE, dtype=dtype)
    matrix = observation.nll_matrix(logits.double(), x.double())
    expected, found = losses.prior_nll(matrix), observation.prior_nll(logits, x)
    for name in ("bound", "least"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name).to(dtype), rtol=1e-5, atol=1e-4)
    assert torch.equal(found.best, expected.best)
    assert not found.least.requires_grad
    weights = torch.rand(B, dtype=dtype)
    gradients = [
        torch.autograd.grad((weights * prior.bound.to(dtype)).sum(), logits, retain_graph=True)[0]
        for prior in (expected, found)
    ]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


def test_prior_nll_is_minus_the_log_of_the_average_likelihood() -> None:
    nll = 3 * torch.rand(B, K, dtype=torch.float64)
    torch.testing.assert_close(losses.prior_nll(nll).bound, -(-nll).exp().mean(1).log())


def test_prior_nll_of_one_code_is_its_nll_and_large_values_do_not_underflow() -> None:
    nll = torch.tensor([[800.0], [2000.0]])
    torch.testing.assert_close(losses.prior_nll(nll).bound, nll[:, 0])
    torch.testing.assert_close(losses.prior_nll(nll.repeat(1, 4)).bound, nll[:, 0])
    far_apart = torch.tensor([[800.0, 2000.0]])
    torch.testing.assert_close(losses.prior_nll(far_apart).bound, torch.tensor([800.0 + math.log(2)]))


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_gradients_are_finite_for_extreme_outputs(scale: float) -> None:
    logits = (scale * torch.randn(B, *SHAPE)).requires_grad_()
    x = torch.randint(0, 2, (B, *SHAPE)).float()
    loss = losses.bernoulli_nll(logits, x).sum() + BernoulliObservation().prior_nll(logits, x).bound.sum()
    loss = loss + Gaussian(0.1).nll(logits, x).sum()
    (gradient,) = torch.autograd.grad(loss, [logits])
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_computed_in_full_precision_under_autocast(dtype: torch.dtype) -> None:
    logits, x = torch.randn(K, 1, 28, 28), torch.rand(B, 1, 28, 28)
    full, bound = BernoulliObservation().nll_matrix(logits, x), BernoulliObservation().prior_nll(logits, x).bound
    with torch.autocast("cpu", dtype=dtype):
        mixed = BernoulliObservation().nll_matrix(logits, x)
        torch.testing.assert_close(BernoulliObservation().prior_nll(logits, x).bound, bound)
        single = losses.bernoulli_nll(logits.to(dtype)[:B], x)
    assert mixed.dtype == single.dtype == torch.float32
    torch.testing.assert_close(mixed, full)

"""Pure loss functions. Each sums over pixels (or latent dimensions) and gives one value for each image, (B,).

Decoders return the *logits* of pixel means; no loss applies a sigmoid before a logarithm, which would be
unsafe in mixed precision. Everything below is computed in float32 (or float64), whatever the inputs are.

All losses can be differentiated any number of times, with respect to logits and images. Where `encdec.kernels` gives a
value and its first gradient in less time, a formula in torch's own operations stands beside it: gradients of gradients
(`create_graph=True`) and the transforms of torch.func are made of that.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from encdec import kernels


def full_precision(tensor: Tensor) -> Tensor:
    """`tensor` in float32, or as it is if it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def pixel_means(logits: Tensor) -> Tensor:
    """The pixel means that a decoder's output stands for: sigmoid(logits), in [0, 1], in full precision."""
    return full_precision(logits).sigmoid()


def squared_error(mean: Tensor, x: Tensor) -> Tensor:
    """‖x − mean‖² for each image: (B, …), (B, …) -> (B,), summed over pixels."""
    return (full_precision(mean) - full_precision(x)).square().flatten(1).sum(1)


def pixel_squared_error(logits: Tensor, x: Tensor) -> Tensor:
    """‖x − sigmoid(logits)‖² for each image: (B, …), (B, …) -> (B,), summed over pixels."""
    if x.requires_grad or not kernels.readable(logits, x):
        return squared_error(pixel_means(logits), x)
    return _pixel_errors(logits, x)[0]


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """−log p(x|z) of independent Bernoulli pixels: (B, …), (B, …) -> (B,), in nats per image.

    For grey pixels x in (0, 1) this is the cross-entropy −x log p − (1−x) log(1−p), whose minimum is the
    entropy of x and not zero.
    """
    if x.requires_grad or not kernels.readable(logits, x):
        return _cross_entropy(logits, x)
    return _pixel_errors(logits, x)[1]


def _cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    rows = full_precision(logits).flatten(1), full_precision(x).flatten(1)
    return functional.binary_cross_entropy_with_logits(*rows, reduction="none").sum(1)


def gaussian_nll(logits: Tensor, x: Tensor, sigma: float) -> Tensor:
    """−log N(x; sigmoid(logits), σ²I): (B, …), (B, …) -> (B,), in nats per image, normalising constant included."""
    constant = x[0].numel() * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
    return pixel_squared_error(logits, x) / (2 * sigma**2) + constant


class _Kept(NamedTuple):
    """The pixel errors of an output, for as long as it and its image live unchanged; without their graph.

    With it, the errors would keep the logits, which keep the errors.
    """

    x: Tensor
    version: int | None
    errors: tuple[Tensor, Tensor]


def _pixel_errors(logits: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error and cross-entropy, both (B,).

    An objective needs one of them, and every run logs both. So both are computed together, and kept with `logits`.
    """
    version = None if logits.is_inference() else logits._version
    with_graph = logits.requires_grad and torch.is_grad_enabled()
    kept: _Kept | None = getattr(logits, "_pixel_errors", None)
    if kept is not None and kept.x is x and kept.version == version and not with_graph:
        return kept.errors
    values = full_precision(logits).contiguous()
    squared_error, cross_entropy = _PixelErrors.apply(values, x) if with_graph else kernels.pixel_errors(values, x)
    kept = _Kept(x, version, (squared_error.detach(), cross_entropy.detach()))
    logits._pixel_errors = kept  # type: ignore[attr-defined]
    return squared_error, cross_entropy


class _PixelErrors(torch.autograd.Function):
    """See `_pixel_errors`."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, x)
        ctx.set_materialize_grads(False)
        return kernels.pixel_errors(logits, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        (logits, x), (of_squared_error, of_cross_entropy) = ctx.saved_tensors, grads
        if of_squared_error is None and of_cross_entropy is None:
            return None, None
        if not torch.is_grad_enabled():
            return kernels.pixel_slopes(logits, x, of_squared_error, of_cross_entropy), None
        errors, of_errors = [], []
        if of_squared_error is not None:
            errors.append(squared_error(logits.sigmoid(), x))
            of_errors.append(of_squared_error)
        if of_cross_entropy is not None:
            errors.append(_cross_entropy(logits, x))
            of_errors.append(of_cross_entropy)
        return torch.autograd.grad(errors, logits, of_errors, create_graph=True)[0], None


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) ‖ N(0, I)): (B, d), (B, d) -> (B,), in nats per image.

    Source: Kingma & Welling 2014, https://arxiv.org/abs/1312.6114, appendix B.
    """
    mean, log_var = full_precision(mean), full_precision(log_var)
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)


def bernoulli_nll_matrix(logits: Tensor, x: Tensor) -> Tensor:
    """−log p(x_b|z_k) of all pairs: (K, …), (B, …) -> (B, K), in nats per image.

    One matrix product, because log p(x|z) = xᵀ·logits − Σ softplus(logits).
    """
    logits, x = full_precision(logits).flatten(1), full_precision(x).flatten(1)
    return _all_pairs(logits, x, _BERNOULLI)


def squared_error_matrix(mean: Tensor, x: Tensor) -> Tensor:
    """‖x_b − mean_k‖² of all pairs: (K, …), (B, …) -> (B, K), summed over pixels.

    One matrix product, because ‖x − m‖² = ‖x‖² − 2 xᵀm + ‖m‖².
    """
    mean, x = full_precision(mean).flatten(1), full_precision(x).flatten(1)
    return x.square().sum(1, keepdim=True) + 2 * _all_pairs(mean, x, _GAUSSIAN)


def gaussian_nll_matrix(mean: Tensor, x: Tensor, sigma: float) -> Tensor:
    """−log N(x_b; mean_k, σ²I) of all pairs: (K, …), (B, …) -> (B, K), in nats per image."""
    constant = x[0].numel() * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
    return squared_error_matrix(mean, x) / (2 * sigma**2) + constant


class PriorNLL(NamedTuple):
    """L_K and the most likely of its codes, each (B,). See `prior_nll`."""

    bound: Tensor
    """L_K, nats per image."""
    least: Tensor
    """−log p(x|z_k) of the most likely code, nats per image, without a gradient."""
    best: Tensor
    """Which code that is, int64."""


def prior_nll(nll: Tensor) -> PriorNLL:
    """L_K = −log (1/K) Σ_k p(x|z_k) from −log p(x|z_k) of codes drawn from the prior: (B, K) -> (B,), nats."""
    nll = full_precision(nll)
    return PriorNLL(math.log(nll.shape[1]) - (-nll).logsumexp(1), *nll.detach().min(1))


def bernoulli_prior_nll(logits: Tensor, x: Tensor) -> PriorNLL:
    """`prior_nll` of `bernoulli_nll_matrix`, at less cost: (K, …), (B, …) -> (B,)."""
    logits, x = full_precision(logits).flatten(1), full_precision(x).flatten(1)
    return _prior_nll(logits, x, _BERNOULLI)


def gaussian_prior_nll(mean: Tensor, x: Tensor, sigma: float) -> PriorNLL:
    """`prior_nll` of `gaussian_nll_matrix`, at less cost: (K, …), (B, …) -> (B,)."""
    mean, x = (full_precision(each).flatten(1) / sigma for each in (mean, x))
    constant = x.square().sum(1) / 2 + x.shape[1] * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
    bound, least, best = _prior_nll(mean, x, _GAUSSIAN)
    return PriorNLL(bound + constant, least + constant.detach(), best)


class _Family(NamedTuple):
    """An exponential family: log p(x|η) = xᵀη − A(η), up to what depends on x only."""

    formula: Callable[[Tensor], Tensor]
    """A, (K, D) -> (K,), which autograd can differentiate."""
    potential: Callable[[Tensor], Tensor]
    """A, (K, D) -> (K,); no graph."""
    weighted_slope: Callable[[Tensor, Tensor], Tensor]
    """Gradient of A times a weight of each row, (K, D), (K,) -> (K, D), in a tensor of its own; no graph."""

    def pairs(self, eta: Tensor, x: Tensor, graph: bool = False) -> Tensor:
        """A(η_k) − x_bᵀη_k: (K, D), (B, D) -> (K, B); with a graph where one is asked for."""
        with _full_products(eta):
            potential = self.formula(eta) if graph else self.potential(eta)
            return torch.addmm(potential.unsqueeze(1), eta, x.T, alpha=-1)

    def bound(self, eta: Tensor, x: Tensor) -> Tensor:
        """−log (1/K) Σ_k exp(x_bᵀη_k − A(η_k)): (K, D), (B, D) -> (B,), with a graph."""
        return math.log(len(eta)) - (-self.pairs(eta, x, graph=True)).logsumexp(0)

    def gradients(self, ctx: Any, eta: Tensor, x: Tensor, of_pairs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Of Σ of_pairs · pairs with respect to η and x; autograd would make their terms in a matrix each."""
        of_eta = of_x = None
        with _full_products(eta):
            if ctx.needs_input_grad[0]:
                of_eta = self.weighted_slope(eta, of_pairs.sum(1)).addmm_(of_pairs, x, alpha=-1)
            if ctx.needs_input_grad[1]:
                of_x = -of_pairs.T @ eta
        return of_eta, of_x


_BERNOULLI = _Family(
    lambda eta: functional.softplus(eta, threshold=40).sum(1), kernels.softplus_sums, kernels.softplus_slopes
)
_GAUSSIAN = _Family(  # of variance 1
    lambda eta: eta.square().sum(1) / 2,
    lambda eta: torch.linalg.vector_norm(eta, dim=1).square_() / 2,
    lambda eta, weights: eta * weights.unsqueeze(1),
)


def _of_one_type(eta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the more precise of their types, as a product needs them; images are float32 beside float64 weights."""
    dtype = torch.promote_types(eta.dtype, x.dtype)
    return eta.to(dtype), x.to(dtype)


def _all_pairs(eta: Tensor, x: Tensor, family: _Family) -> Tensor:
    """A(η_k) − x_bᵀη_k of all pairs: (K, D), (B, D) -> (B, K)."""
    eta, x = _of_one_type(eta, x)
    if not kernels.readable(eta, x):
        return family.pairs(eta, x, graph=True).T
    result: Tensor = _AllPairs.apply(eta, x, family)
    return result


class _AllPairs(torch.autograd.Function):
    """See `_all_pairs`."""

    @staticmethod
    def forward(ctx: Any, eta: Tensor, x: Tensor, family: _Family) -> Tensor:
        ctx.save_for_backward(eta, x)
        ctx.family = family
        return family.pairs(eta, x).T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        eta, x = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_gradients(ctx, ctx.family.pairs(eta, x, graph=True).T, eta, x, grads[0]), None
        return *ctx.family.gradients(ctx, eta, x, grads[0].T), None


def _prior_nll(eta: Tensor, x: Tensor, family: _Family) -> PriorNLL:
    """−log (1/K) Σ_k exp(x_bᵀη_k − A(η_k)), the least A(η_k) − x_bᵀη_k and its k: (K, D), (B, D) -> (B,)."""
    eta, x = _of_one_type(eta, x)
    if not kernels.readable(eta, x):
        return PriorNLL(family.bound(eta, x), *family.pairs(eta, x, graph=True).detach().min(0))
    return PriorNLL(*_PriorNLL.apply(eta, x, family))


class _PriorNLL(torch.autograd.Function):
    """See `_prior_nll`.

    The value needs the posterior weights of the codes, and the gradient is that of all pairs times these weights.
    """

    @staticmethod
    def forward(ctx: Any, eta: Tensor, x: Tensor, family: _Family) -> tuple[Tensor, Tensor, Tensor]:
        weights, log_sum, least, best = kernels.likelihood_weights(family.pairs(eta, x))
        ctx.save_for_backward(eta, x, weights)
        ctx.family = family
        ctx.mark_non_differentiable(least, best)
        ctx.set_materialize_grads(False)
        return math.log(len(eta)) - log_sum, least, best

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        eta, x, weights = ctx.saved_tensors
        if grads[0] is None:
            return None, None, None
        if torch.is_grad_enabled():
            return *_gradients(ctx, ctx.family.bound(eta, x), eta, x, grads[0]), None
        return *ctx.family.gradients(ctx, eta, x, weights * grads[0]), None


def _gradients(ctx: Any, value: Tensor, eta: Tensor, x: Tensor, of_value: Tensor) -> tuple[Tensor | None, ...]:
    """Of `value` with respect to η and x, each where it is needed, with a graph of their own."""
    wanted = [tensor for tensor, needed in zip((eta, x), ctx.needs_input_grad, strict=False) if needed]
    with _full_products(eta):
        found = iter(torch.autograd.grad(value, wanted, of_value, create_graph=True))
    return tuple(next(found) if needed else None for needed in ctx.needs_input_grad[:2])


def _full_products(eta: Tensor) -> AbstractContextManager[object]:
    """Where matrix products are of the precision of their factors. (torch's own context costs time without a need.)"""
    if torch.is_autocast_enabled(eta.device.type):
        return torch.autocast(eta.device.type, enabled=False)
    return nullcontext()

"""Pure loss functions. Each sums over pixels (or latent dimensions) and gives one value for each image, (B,).

Decoders return the *logits* of pixel means; no loss applies a sigmoid before a logarithm, which would be
unsafe in mixed precision. Everything below is computed in float32 (or float64), whatever the inputs are, and is plain
torch: it can be differentiated any number of times, with respect to logits and images.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


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
    return squared_error(pixel_means(logits), x)


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """−log p(x|z) of independent Bernoulli pixels: (B, …), (B, …) -> (B,), in nats per image.

    For grey pixels x in (0, 1) this is the cross-entropy −x log p − (1−x) log(1−p), whose minimum is the
    entropy of x and not zero.
    """
    logits, x = full_precision(logits), full_precision(x)
    return functional.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def gaussian_nll(logits: Tensor, x: Tensor, sigma: float) -> Tensor:
    """−log N(x; sigmoid(logits), σ²I): (B, …), (B, …) -> (B,), in nats per image, normalising constant included."""
    return pixel_squared_error(logits, x) / (2 * sigma**2) + _gaussian_constant(x, sigma)


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) ‖ N(0, I)): (B, d), (B, d) -> (B,), in nats per image.

    Source: Kingma & Welling 2014, https://arxiv.org/abs/1312.6114, appendix B.
    """
    return _gaussian_kls(mean, log_var).sum(1)


def free_bits_kl(mean: Tensor, log_var: Tensor, free_bits: float) -> Tensor:
    """Σ_j max(λ, KL_j), where KL_j is that of dimension j in `gaussian_kl`: (B, d), (B, d) -> (B,), in nats per image.

    A dimension whose KL is below λ = `free_bits` costs λ whatever it is, and has no gradient.

    Source: Kingma et al. 2016, https://arxiv.org/abs/1606.04934, eq. 15, with one dimension in each group. There KL_j
    is averaged over the minibatch before the maximum is taken; here each image has its own, so that an image's loss
    does not depend on the others.
    """
    return _gaussian_kls(mean, log_var).clamp(min=free_bits).sum(1)


def bernoulli_nll_matrix(logits: Tensor, x: Tensor) -> Tensor:
    """−log p(x_b|z_k) of all pairs: (K, …), (B, …) -> (B, K), in nats per image.

    One matrix product, because log p(x|z) = xᵀ·logits − Σ softplus(logits).
    """
    logits, x = full_precision(logits).flatten(1), full_precision(x).flatten(1)
    # from its threshold on, torch's softplus is l; the default of 20 costs digits in float64
    return _all_pairs(logits, functional.softplus(logits, threshold=40).sum(1), x)


def squared_error_matrix(mean: Tensor, x: Tensor) -> Tensor:
    """‖x_b − mean_k‖² of all pairs: (K, …), (B, …) -> (B, K), summed over pixels.

    One matrix product, because ‖x − m‖² = ‖x‖² − 2 xᵀm + ‖m‖².
    """
    mean, x = full_precision(mean).flatten(1), full_precision(x).flatten(1)
    return x.square().sum(1, keepdim=True) + 2 * _all_pairs(mean, mean.square().sum(1) / 2, x)


def gaussian_nll_matrix(mean: Tensor, x: Tensor, sigma: float) -> Tensor:
    """−log N(x_b; mean_k, σ²I) of all pairs: (K, …), (B, …) -> (B, K), in nats per image."""
    return squared_error_matrix(mean, x) / (2 * sigma**2) + _gaussian_constant(x, sigma)


class PriorNLL(NamedTuple):
    """The importance-weighted bound L_K and the most likely of its latent codes, each (B,). See `prior_nll`."""

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
    """`prior_nll` of `bernoulli_nll_matrix`: (K, …), (B, …) -> (B,)."""
    return prior_nll(bernoulli_nll_matrix(logits, x))


def gaussian_prior_nll(mean: Tensor, x: Tensor, sigma: float) -> PriorNLL:
    """`prior_nll` of `gaussian_nll_matrix`: (K, …), (B, …) -> (B,)."""
    return prior_nll(gaussian_nll_matrix(mean, x, sigma))


def _gaussian_kls(mean: Tensor, log_var: Tensor) -> Tensor:
    """The KL of each dimension: (B, d), (B, d) -> (B, d)."""
    mean, log_var = full_precision(mean), full_precision(log_var)
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var)


def _gaussian_constant(x: Tensor, sigma: float) -> float:
    """log of the normalising constant of N(x; m, σ²I), for each image of (B, …)."""
    return math.prod(x.shape[1:]) * (math.log(sigma) + 0.5 * math.log(2 * math.pi))


def _all_pairs(eta: Tensor, potential: Tensor, x: Tensor) -> Tensor:
    """A_k − x_bᵀη_k of all pairs, in one product: (K, D), (K,), (B, D) -> (B, K).

    This is −log p(x_b|η_k) in an exponential family with the log-partition function A, up to what depends on x only.
    """
    dtype = torch.promote_types(eta.dtype, x.dtype)  # images are float32 beside float64 weights
    device = eta.device.type
    # float64 is the only type that autocast leaves alone, also in a gradient that is taken within it; MPS has none
    product = torch.float64 if torch.is_autocast_enabled(device) and device != "mps" else dtype
    eta, potential, x = eta.to(product), potential.to(product), x.to(product)
    with torch.autocast(device, enabled=False):
        return torch.addmm(potential.unsqueeze(1), eta, x.T, alpha=-1).T.to(dtype)

"""What is done with every pixel outside the networks: its scale, its errors and their gradient; and L_K's softmax.

For logits l and an image x, with p = sigmoid(l) and d = p − x, the squared error is Σ d² and the cross-entropy
Σ log(1 + exp(l)) − x l; their gradients are 2 d p (1 − p) and d.

On CPUs, in float32, this is done by `kernels.c`, which `pip install` compiles where there is a C compiler, in one pass
over the pixels. Everywhere else torch does it, in up to ten. Both agree to the rounding of float32.
"""

import ctypes
import importlib.util
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_INTERFACE = 2
"""Of the functions in `kernels.c`: raised there and here with every change of one."""


def _load() -> ctypes.CDLL | None:
    """The compiled functions; None if they were not compiled, are older than this file, or can't be used here."""
    found = importlib.util.find_spec("encdec._kernels")
    if found is None or found.origin is None:
        return None
    try:
        library = ctypes.CDLL(found.origin)  # its threads are torch's, whose OpenMP library is loaded already
        if library.encdec_kernels_interface() != _INTERFACE:
            return None
    except (OSError, AttributeError):
        return None
    pointer, size, count = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    arguments = {
        "encdec_scale_pixels": [pointer, pointer, size, size, count],
        "encdec_pixel_errors": [pointer, pointer, pointer, pointer, size, size, count],
        "encdec_pixel_slopes": [pointer, pointer, pointer, pointer, pointer, size, size, count],
        "encdec_softplus_sums": [pointer, pointer, size, size, count],
        "encdec_softplus_slopes": [pointer, pointer, pointer, size, size, count],
        "encdec_likelihood_weights": [pointer, pointer, pointer, pointer, size, size, count],
    }
    for name, types in arguments.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, None
    return library


_library = _load()


def compiled() -> bool:
    """Whether the functions of `kernels.c` are there."""
    return _library is not None


def readable(*tensors: Tensor) -> bool:
    """Whether tensors have numbers to read: those that torch.func makes (vmap, grad, jvp) have none."""
    try:
        for tensor in tensors:
            tensor.data_ptr()
    except RuntimeError:
        return False
    return True


def scaled(pixels: Tensor) -> Tensor:
    """Pixels from 0 to 1: uint8, (B, …) -> float32, (B, …), the nearest to k/255."""
    suits = pixels.is_cpu and pixels.dtype == torch.uint8 and pixels.is_contiguous() and pixels.numel() > 0
    if _library is None or not suits:
        return pixels.to(torch.float32).div_(255)
    x, rows = torch.empty(pixels.shape, dtype=torch.float32), pixels.shape[0]
    _library.encdec_scale_pixels(pixels.data_ptr(), x.data_ptr(), rows, pixels.numel() // rows, torch.get_num_threads())
    return x


def pixel_errors(logits: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error and cross-entropy of each image: (B, …), (B, …) -> (B,), (B,), summed over pixels; no graph."""
    if _library is not None and _suits(logits, x):
        rows = logits.shape[0]
        errors = logits.new_empty(2, rows)
        first = errors.data_ptr()
        _library.encdec_pixel_errors(
            logits.data_ptr(),
            x.data_ptr(),
            first,
            first + 4 * rows,
            rows,
            logits.numel() // rows,
            torch.get_num_threads(),
        )
        return errors[0], errors[1]
    logits, x = logits.flatten(1), x.flatten(1)
    squared_error: Tensor = torch.linalg.vector_norm(logits.sigmoid() - x, dim=1).square_()
    return squared_error, _softplus(logits).addcmul_(logits, x, value=-1).sum(1)


def pixel_slopes(logits: Tensor, x: Tensor, of_squared_error: Tensor | None, of_cross_entropy: Tensor | None) -> Tensor:
    """The gradient with respect to the logits: (B, …), (B, …), (B,), (B,) -> (B, …); None is zero; no graph."""
    if _library is not None and _suits(logits, x):
        native = torch.empty_like(logits)
        # kept until the call is over
        weights = [None if of is None else of.contiguous() for of in (of_squared_error, of_cross_entropy)]
        rows = logits.shape[0]
        _library.encdec_pixel_slopes(
            logits.data_ptr(),
            x.data_ptr(),
            *(None if of is None else of.data_ptr() for of in weights),
            native.data_ptr(),
            rows,
            logits.numel() // rows,
            torch.get_num_threads(),
        )
        return native
    shape = logits.shape
    means = logits.flatten(1).sigmoid()
    difference = means - x.flatten(1)
    if of_squared_error is None:
        assert of_cross_entropy is not None
        return difference.mul_(of_cross_entropy.unsqueeze(1)).view(shape)
    slopes: Tensor = torch.ops.aten.sigmoid_backward.default(difference, means)
    slopes.mul_((2 * of_squared_error).unsqueeze(1))
    if of_cross_entropy is not None:
        slopes += difference.mul_(of_cross_entropy.unsqueeze(1))
    return slopes.view(shape)


def softplus_sums(logits: Tensor) -> Tensor:
    """Σ log(1 + exp(l)) of each row: (K, D) -> (K,); no graph."""
    if _library is not None and _suits(logits):
        sums = logits.new_empty(len(logits))
        _library.encdec_softplus_sums(logits.data_ptr(), sums.data_ptr(), *logits.shape, torch.get_num_threads())
        return sums
    return _softplus(logits).sum(1)


def softplus_slopes(logits: Tensor, of_sums: Tensor) -> Tensor:
    """The gradient of `softplus_sums` with respect to the logits: (K, D), (K,) -> (K, D); no graph."""
    if _library is not None and _suits(logits):
        slopes, of_sums = torch.empty_like(logits), of_sums.contiguous()
        _library.encdec_softplus_slopes(
            logits.data_ptr(), of_sums.data_ptr(), slopes.data_ptr(), *logits.shape, torch.get_num_threads()
        )
        return slopes
    return logits.sigmoid().mul_(of_sums.unsqueeze(1))


class LikelihoodWeights(NamedTuple):
    """Of K codes for each of B images. See `likelihood_weights`."""

    weights: Tensor
    """p(x|z_k) / Σ_j p(x|z_j), (K, B)."""
    log_sum: Tensor
    """log Σ_k p(x|z_k), (B,)."""
    least: Tensor
    """The least −log p(x|z_k), (B,)."""
    best: Tensor
    """The first code that has it, (B,), int64."""


def likelihood_weights(nll: Tensor) -> LikelihoodWeights:
    """Weights of K codes by −log p(x|z_k), (K, B), whose memory the weights may take; no graph."""
    if _library is not None and _suits(nll):
        images, threads = nll.shape[1], torch.get_num_threads()
        best = nll.new_empty(images, dtype=torch.int64)
        log_sum, least = nll.new_empty(2, images).unbind()
        results = (tensor.data_ptr() for tensor in (nll, log_sum, least, best))
        _library.encdec_likelihood_weights(*results, *nll.shape, threads)
        return LikelihoodWeights(nll, log_sum, least, best)
    least, best = nll.min(0)
    weights = (-nll).softmax(0)
    # by the most likely code: its weight is exp(−nll − log_sum), not below 1/K
    return LikelihoodWeights(weights, -least - weights.amax(0).log(), least, best)


def _softplus(logits: Tensor) -> Tensor:
    # from its threshold on, torch's softplus is l; the default of 20 costs digits in float64
    return functional.softplus(logits, threshold=40)


def _suits(*tensors: Tensor) -> bool:
    """Whether `kernels.c` can read these: float32 on a CPU, one pixel after the other, as many in all."""
    return (
        all(
            type(tensor) is Tensor
            and tensor.is_cpu
            and tensor.dtype == torch.float32
            and tensor.shape == tensors[0].shape
            and tensor.is_contiguous()
            for tensor in tensors
        )
        and tensors[0].numel() > 0
        and not torch.compiler.is_compiling()
    )

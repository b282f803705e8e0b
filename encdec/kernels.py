"""What is done with every pixel outside the networks: its scale, its errors and their gradient.

For logits l and an image x, with p = sigmoid(l) and d = p − x, the squared error is Σ d² and the cross-entropy
Σ log(1 + exp(l)) − x l; their gradients are 2 d p (1 − p) and d.

On CPUs, in float32, this is done by `kernels.c`, which `pip install` compiles where there is a C compiler, in one pass
over the pixels. Everywhere else torch does it, in up to ten. Both agree to the rounding of float32.
"""

import ctypes
import importlib.util

import torch
from torch import Tensor
from torch.nn import functional

_INTERFACE = 1
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
        "encdec_pixel_errors": [pointer, pointer, size, pointer, pointer, size, size, count],
        "encdec_pixel_slopes": [pointer, pointer, size, pointer, pointer, pointer, size, size, count],
    }
    for name, types in arguments.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, None
    return library


_library = _load()


def compiled() -> bool:
    """Whether the functions of `kernels.c` are there."""
    return _library is not None


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
            x.stride(0),
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
            x.stride(0),
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
    zeros = logits.new_zeros(1, logits.shape[1]).expand_as(logits)
    if _library is not None and _suits(logits, zeros):
        return pixel_errors(logits, zeros)[1]
    return _softplus(logits).sum(1)


def softplus_slopes(logits: Tensor, of_sums: Tensor) -> Tensor:
    """The gradient of `softplus_sums` with respect to the logits: (K, D), (K,) -> (K, D); no graph."""
    zeros = logits.new_zeros(1, logits.shape[1]).expand_as(logits)
    if _library is not None and _suits(logits, zeros):
        return pixel_slopes(logits, zeros, None, of_sums)
    return logits.sigmoid().mul_(of_sums.unsqueeze(1))


def _softplus(logits: Tensor) -> Tensor:
    # from its threshold on, torch's softplus is l; the default of 20 costs digits in float64
    return functional.softplus(logits, threshold=40)


def _suits(logits: Tensor, x: Tensor) -> bool:
    """Whether `kernels.c` can read these: float32 on a CPU, one pixel after the other, as many in both."""
    return (
        type(logits) is type(x) is Tensor
        and logits.is_cpu
        and x.is_cpu
        and logits.dtype == x.dtype == torch.float32
        and logits.shape == x.shape
        and logits.is_contiguous()
        and (x.is_contiguous() or (x.dim() == 2 and x.stride() == (0, 1)))
        and logits.numel() > 0
        and not torch.compiler.is_compiling()
    )

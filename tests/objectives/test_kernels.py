"""What is compiled against torch's own operations in float64, and what takes its place where nothing is compiled."""

import ctypes
import importlib.util
import math
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from encdec import kernels

IMPLEMENTATIONS = ["compiled", "torch"]
B, SHAPE = 9, (2, 13, 31)  # more pixels than a block, and none of the widths of a vector


@pytest.fixture(params=IMPLEMENTATIONS, autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == "torch":
        monkeypatch.setattr(kernels, "_library", None)
    elif not kernels.compiled():
        pytest.skip("not compiled")
    return name


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="other compilers may do without")
def test_it_is_compiled_where_there_is_a_compiler() -> None:
    assert kernels._load() is not None, "pip install -e . compiles it"


def values(scale: float) -> Tensor:
    return scale * torch.randn(B, *SHAPE)


def reference(logits: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    means, target = logits.double().sigmoid(), x.double()
    squared = (means - target).square().flatten(1).sum(1)
    terms = functional.binary_cross_entropy_with_logits(logits.double(), target, reduction="none")
    return squared, terms.flatten(1).sum(1)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 10.0, 80.0])
def test_errors_and_slopes(scale: float) -> None:
    logits, x = values(scale), torch.rand(B, *SHAPE)
    full = logits.double().requires_grad_()
    squared, cross = reference(full, x)
    for found, expected in zip(kernels.pixel_errors(logits, x), (squared, cross), strict=True):
        torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=0)

    weights = torch.rand(2, B)
    for of_squared, of_cross in ((weights[0], None), (None, weights[1]), (weights[0], weights[1])):
        total = torch.zeros((), dtype=torch.float64)
        for of, term in ((of_squared, squared), (of_cross, cross)):
            total = total if of is None else total + (of * term).sum()
        (expected,) = torch.autograd.grad(total, full, retain_graph=True)
        found = kernels.pixel_slopes(logits, x, of_squared, of_cross)
        torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=5e-7)


def test_every_pixel_is_as_exact_as_float32_is() -> None:
    """Of each logit alone, so that no sum hides an error, down to where numbers may be flushed to zero."""
    logits = torch.cat([torch.linspace(-80, 100, 40001), 1e-4 * torch.randn(1000), torch.zeros(1)]).unsqueeze(1)
    zeros, ones = torch.zeros_like(logits), torch.ones(len(logits))
    full = logits.double().squeeze(1)
    _, softplus = kernels.pixel_errors(logits, zeros)
    expected = full.clamp_min(0) + (-full.abs()).exp().log1p()
    torch.testing.assert_close(softplus.double(), expected, rtol=5e-7, atol=0)
    means = kernels.pixel_slopes(logits, zeros, None, ones).squeeze(1)
    torch.testing.assert_close(means.double(), full.sigmoid(), rtol=5e-7, atol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_so(value: float) -> None:
    logits, x = torch.zeros(3, 40), torch.full((3, 40), 0.5)
    logits[1, 7] = value
    _, cross = kernels.pixel_errors(logits, x)
    assert cross.isfinite().tolist() == [True, False, True]
    if math.isnan(value):
        slopes = kernels.pixel_slopes(logits, x, None, torch.ones(3))
        assert slopes.isnan().nonzero().tolist() == [[1, 7]]


@pytest.mark.parametrize("value", [1e30, -1e30, 120.0, -120.0])
def test_logits_of_any_size_have_an_error(value: float) -> None:
    logits, x = torch.full((2, 3), value), torch.full((2, 3), 0.25)
    squared, cross = kernels.pixel_errors(logits, x)
    torch.testing.assert_close(squared, torch.full((2,), 3 * ((value > 0) - 0.25) ** 2))
    torch.testing.assert_close(cross, torch.full((2,), 3 * abs(value) * (0.75 if value > 0 else 0.25)))


def test_sums_of_softplus() -> None:
    logits, weights = values(5.0).flatten(1), torch.rand(B)
    full = logits.double().requires_grad_()
    expected = functional.softplus(full, threshold=1000).sum(1)
    torch.testing.assert_close(kernels.softplus_sums(logits), expected.float(), rtol=1e-6, atol=0)
    (slopes,) = torch.autograd.grad((weights * expected).sum(), full)
    torch.testing.assert_close(kernels.softplus_slopes(logits, weights), slopes.float(), rtol=1e-5, atol=5e-7)


@pytest.mark.parametrize("images", [1, 40])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_weights_of_codes(images: int, scale: float) -> None:
    nll = 500 + scale * torch.randn(600, images)
    full = nll.double()
    found = kernels.likelihood_weights(nll.clone())
    torch.testing.assert_close(found.weights.double(), (-full).softmax(0), rtol=1e-6, atol=1e-30)
    torch.testing.assert_close(found.log_sum.double(), (-full).logsumexp(0), rtol=5e-7, atol=0)
    torch.testing.assert_close(found.least, nll.amin(0), rtol=0, atol=0)
    assert torch.equal(found.best, nll.argmin(0))


def test_the_first_of_equal_codes_is_the_best_and_an_impossible_one_has_no_weight() -> None:
    found = kernels.likelihood_weights(torch.tensor([[3.0, math.inf], [2.0, 1.0], [2.0, math.inf]]))
    assert found.best.tolist() == [1, 1]
    torch.testing.assert_close(found.weights[:, 1], torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(found.log_sum, torch.tensor([math.log(2 + math.exp(-1)) - 2, -1.0]))


def test_an_image_with_nan_has_no_bound_and_a_code_that_exists() -> None:
    nll = torch.ones(5, 40)
    nll[3, 7] = math.nan
    found = kernels.likelihood_weights(nll)
    for value in (found.weights.sum(0), found.log_sum, found.least):
        assert value.isnan().nonzero().tolist() == [[7]]
    assert 0 <= found.best.min() <= found.best.max() < 5


def test_scaled_pixels_are_the_nearest_numbers() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(3, 1, 16, 16)
    expected = torch.tensor([k / 255 for k in range(256)]).repeat(3).view(3, 1, 16, 16)
    assert torch.equal(kernels.scaled(pixels), expected)
    assert torch.equal(kernels.scaled(pixels.transpose(2, 3)), expected.transpose(2, 3))
    assert kernels.scaled(pixels[:0]).shape == (0, 1, 16, 16)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert kernels.scaled(pixels).dtype == torch.float32
    finally:
        torch.set_default_dtype(before)


def test_digits_do_not_depend_on_the_threads_of_what_is_compiled(implementation: str) -> None:
    if implementation == "torch":
        pytest.skip("torch adds in another order")
    logits, x, before = values(3.0), torch.rand(B, *SHAPE), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            rows = kernels.likelihood_weights(100 * logits.flatten(1).T.contiguous())
            found.append(
                torch.cat([*kernels.pixel_errors(logits, x), rows.log_sum, kernels.softplus_sums(logits.flatten(1))])
            )
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    "change",
    [
        lambda logits, x: (logits.double(), x),
        lambda logits, x: (logits.transpose(2, 3).contiguous().transpose(2, 3), x),
        lambda logits, x: (logits, x.transpose(2, 3).contiguous().transpose(2, 3)),
        lambda logits, x: (logits, x.double()),
        lambda logits, x: (logits[:0], x[:0]),
        lambda logits, x: (logits[1:], x[1:]),
        lambda logits, x: (logits[::2], x[::2]),
    ],
    ids=["float64", "logits in another order", "x in another order", "x in float64", "none", "a part", "every other"],
)
def test_other_types_and_layouts(change: object) -> None:
    assert callable(change)
    logits, x = change(values(2.0), torch.rand(B, *SHAPE))
    squared, cross = reference(logits, x)
    for found, expected in zip(kernels.pixel_errors(logits, x), (squared, cross), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    ones = torch.ones(len(logits), dtype=logits.dtype)
    slopes = kernels.pixel_slopes(logits, x, None, ones)
    torch.testing.assert_close(slopes.double(), logits.double().sigmoid() - x.double(), rtol=1e-5, atol=1e-6)


def test_images_of_another_size_are_refused_and_nothing_is_read_beyond_them() -> None:
    with pytest.raises(RuntimeError, match="size"):
        kernels.pixel_errors(torch.zeros(4, 10), torch.zeros(4, 7))
    with pytest.raises(RuntimeError, match="size"):
        kernels.pixel_slopes(torch.zeros(4, 10), torch.zeros(4, 7), None, torch.ones(4))


@pytest.mark.parametrize("content", [None, b"not a library", "older"])
def test_a_library_that_can_not_be_used_is_left_alone(
    content: bytes | str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, implementation: str
) -> None:
    spec = None
    if content is not None:
        path = tmp_path / "_kernels.so"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            if implementation == "torch":
                pytest.skip("nothing compiled")
            found = importlib.util.find_spec("encdec._kernels")
            assert found is not None
            assert found.origin is not None
            path = Path(found.origin)
            monkeypatch.setattr(kernels, "_INTERFACE", kernels._INTERFACE + 1)
            assert ctypes.CDLL(str(path)).encdec_kernels_interface() == kernels._INTERFACE - 1
        spec = ModuleSpec("encdec._kernels", None, origin=str(path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert kernels._load() is None

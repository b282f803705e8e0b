"""What a model costs, beside what it reaches: numbers that are stored, decoding in training, time to find a latent."""

from time import perf_counter

import torch

from encdec.evaluation.context import Context, random_order
from encdec.evaluation.view import DRAWS, View
from encdec.objectives.search import gradients_enabled
from encdec.paradigms import Paradigm, encodes
from encdec.paradigms.codes import LatentTable
from encdec.types import Batch

TIMED, BATCH = 500, 100
"""Test images whose latents are found while time is taken, and how many at a time."""


def add_costs(context: Context, decoder_calls: float | None) -> None:
    """Add `parameters_generator`, `parameters_training`, `latent_milliseconds` and `decoder_calls`.

    Args:
        context: the evaluation.
        decoder_calls: what the checkpoint says of its training; None where it says nothing.
    """
    view, metrics = context.view, context.metrics
    numbers = parameters_generator(view)
    why = "no parameter changes its samples"
    metrics.add("parameters_generator", numbers or torch.nan, "numbers that sampling needs", undefined=why)
    unit = "numbers that are trained or stored for training, tables of latents included, moments of optimizers not"
    metrics.add("parameters_training", parameters_training(view.paradigm), unit)
    if decoder_calls is None:
        has_decoder = isinstance(getattr(view.paradigm, "decoder", None), torch.nn.Module)
        metrics.undefined["decoder_calls"] = (
            "its training did not count them: it was compiled, is not through its first epoch, or is of an older encdec"
            if has_decoder
            else f"{type(view.paradigm).__name__} has no module `decoder`"
        )
    else:
        metrics.add("decoder_calls", decoder_calls, "forward passes of the decoder per training image and epoch")
    if not encodes(view.paradigm):
        metrics.undefined["latent_milliseconds"] = f"{type(view.paradigm).__name__} has no latents of images"
        return
    threads = f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)} of a "
    where = threads + "CPU" if view.device.type == "cpu" else f"a {view.device.type} device"
    unit = f"milliseconds per test image to find its latent, the fastest batch of {BATCH}, {where}"
    metrics.add("latent_milliseconds", latent_milliseconds(context), unit)


def parameters_generator(view: View) -> int:
    """Numbers that samples depend on: of parameters, and of a density that latents are drawn from."""
    noise, y = view.noise(DRAWS["labels"], torch.arange(2)), torch.zeros(2, dtype=torch.int64, device=view.device)
    parameters = list(view.paradigm.parameters())
    was_trained = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with gradients_enabled():
            images = view.paradigm.generate(noise, y)
            found = torch.autograd.grad(images.sum(), parameters, allow_unused=True) if images.requires_grad else []
    finally:
        for parameter, needs_gradient in zip(parameters, was_trained, strict=True):
            parameter.requires_grad_(needs_gradient)
    total = sum(gradient.numel() for gradient in found if gradient is not None)
    if view.is_latent:  # a mixture's numbers are buffers; its covariances are there for its density
        total += sum(
            value.numel()
            for name, value in view.latent.sampled.named_buffers()
            if value.is_floating_point() and not name.startswith("covariance")
        )
    return total


def parameters_training(paradigm: Paradigm) -> int:
    """Numbers of all parameters and buffers; of an optimizer's state, which a table keeps too, none."""
    ex_post = getattr(paradigm, "ex_post", None)
    after = {id(value) for value in ex_post.buffers()} if isinstance(ex_post, torch.nn.Module) else set[int]()
    for module in paradigm.modules():
        if isinstance(module, LatentTable):
            after |= {id(value) for value in (module.first_moment, module.second_moment, module.steps)}
    stored = [value for value in paradigm.buffers() if id(value) not in after]
    return sum(value.numel() for value in (*paradigm.parameters(), *stored))


def latent_milliseconds(context: Context) -> float:
    """Milliseconds per image of the fastest batch of `TIMED` images, which other programs have slowed down least."""
    positions = random_order(len(context.test.labels))[:TIMED]
    batches = list(context.batches("test", positions, BATCH))
    _encode(context.view, batches[0])  # the first call is slower
    times = []
    for batch in batches:
        began = perf_counter()
        _encode(context.view, batch)
        times.append((perf_counter() - began) / len(batch.x))
    return 1000 * min(times)


def _encode(view: View, batch: Batch) -> None:
    z = view.encode(batch)
    assert z is not None
    if z.is_cuda:
        torch.cuda.synchronize(z.device)

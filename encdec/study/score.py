"""How a tuning trial is scored: on the validation split, which takes no part in training and none in the report."""

import math

import lightning.pytorch as pl
import torch

from encdec.data import DataModule
from encdec.data.fingerprints import fingerprint
from encdec.evaluation.context import Context, block_size, random_order
from encdec.evaluation.features import find_space
from encdec.evaluation.frechet import Frechet
from encdec.evaluation.view import DRAWS, View
from encdec.paradigms import Paradigm
from encdec.study.plan import CACHE
from encdec.types import UserError, scaled

SAMPLES = 10_000
"""Samples that are compared with the validation images."""


class Score(pl.Callback):
    """Scores what is validated; lower is better.

    Args:
        by: `frechet` for the distance of samples to the validation images, in the features that `encdec test` uses; or
            a scalar of the validation, such as `val/loss`. Of bounds that are maximised, such as `val/elbo`, the
            negative is the score.

    Attributes:
        value: the score, once the validation has ended.
    """

    def __init__(self, by: str) -> None:
        self._by = by
        self.value: float | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score.

        Raises:
            UserError: the paradigm has no such scalar.
        """
        if self._by == "frechet":
            data = getattr(trainer, "datamodule", None)
            assert isinstance(pl_module, Paradigm)
            assert isinstance(data, DataModule)
            with torch.inference_mode(False), torch.no_grad():
                self.value = frechet_to_validation(pl_module, data)
            print(f"validation: Fréchet distance of {SAMPLES:,} samples {self.value:.5g}", flush=True)
            return
        scalars = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        if self._by not in scalars:
            name = type(pl_module).__name__
            raise UserError(
                f"{name} has no scalar {self._by!r} to be tuned by; it has {', '.join(sorted(scalars))}.", 2
            )
        self.value = -scalars[self._by] if self._by.endswith("elbo") else scalars[self._by]


def frechet_to_validation(paradigm: Paradigm, data: DataModule) -> float:
    """The Fréchet distance of a paradigm's samples to the validation images; infinite where samples are not finite.

    Sample i has the noise that sample i of the evaluation has, and the label of a validation image.
    """
    view, val = View(paradigm.eval()), data.splits["val"]
    context = Context(view, data.splits["train"], data.splits["test"])
    space = find_space(context, "auto", CACHE, fingerprint(data.splits["train"]))
    frechet = Frechet(space.dim, view.device)
    order = random_order(len(val.labels))
    size = block_size(context.numel)
    for pixels in val.stream(order.split(size)):
        frechet.update(space.features(scaled(pixels.to(view.device))).double())
    frechet.next_set()
    for part in torch.arange(SAMPLES).split(size):
        labels = val.labels[order[part % len(order)]].to(view.device)
        samples = view.images(view.noise(DRAWS["samples"], part), labels)
        if not samples.isfinite().all():
            return math.inf
        frechet.update(space.features(samples).double())
    return float(frechet.compute())

"""What is measured, in words: how many samples differ, and what an MSE means."""

import math

import lightning.pytorch as pl

from encdec.data import DataModule
from encdec.formats import FEW_STEPS
from encdec.objectives.floors import FLOOR_NAMES, is_baseline
from encdec.paradigms import Paradigm
from encdec.types import Conditioning

SAMPLES = 1_000
"""How many samples `val/sample_variance` is of."""
_WORSE = 1.1  # times the BCE of an output of 0.5 everywhere, which is about what an untrained decoder gives
_ALIKE = 0.05  # share of the data's variance below which samples count as one picture


def is_compared(model: Paradigm) -> bool:
    """Whether an output belongs to the image that it is compared with, so that its error has a floor."""
    return model.conditioning is not None


def term(name: str) -> str:
    """The first word of a scalar's name: val/mse_zeros -> mse."""
    return name.partition("/")[2].partition("_")[0]


def stands_beside(name: str) -> bool:
    """Whether a scalar is shown in the row of another."""
    return name.endswith("_floor") or any(f"{term}_gap" in name for term in ("mse", "bce"))


def is_measured_against(name: str, kind: str) -> bool:
    """Whether a scalar is an output's `mse` or `bce` (`kind`), and not a floor or a baseline."""
    return term(name) == kind and not stands_beside(name) and not is_baseline(name)


def reference(name: str, metrics: dict[str, float], conditioning: Conditioning | None) -> tuple[float, str] | None:
    """What a scalar is to be compared with, and what that is; None for most."""
    stage, kind = name.partition("/")[0], term(name)
    if kind not in ("mse", "bce") or not is_measured_against(name, kind):
        return None
    floor, mean_image = metrics.get(f"{stage}/{kind}_floor"), metrics.get(f"{stage}/{kind}_mean_image")
    if kind == "mse" and conditioning is Conditioning.IMAGE:
        return None if mean_image is None else (mean_image, FLOOR_NAMES[Conditioning.NONE])
    return None if floor is None or conditioning is None else (floor, f"floor ({FLOOR_NAMES[conditioning]})")


def verdicts(
    trainer: pl.Trainer, stage: str, metrics: dict[str, float], step: int, samples: int = SAMPLES
) -> list[str]:
    """A sentence for each MSE that has a floor or a baseline, or for the samples of what pairs nothing with an image.

    Args:
        trainer: with the model that was measured.
        stage: `val` or `test`.
        metrics: what was measured, by name.
        step: steps that the model was trained for.
        samples: how many samples the variance is of.
    """
    model = trainer.lightning_module
    if not isinstance(model, Paradigm):
        return []
    begun = _hardly_begun(trainer, step)
    conditioning = model.conditioning
    if conditioning is None:
        name = f"{stage}/sample_variance"
        return [f"{name} – {begun}{_diversity(metrics[name], samples, bool(begun))}"] if name in metrics else []
    floors = model.floors.get(stage)
    # the floors are those of this run; a checkpoint may be from one that measured other images
    before = metrics.get(f"{stage}/mse_floor", metrics.get(f"{stage}/mse_mean_image"))
    if floors is None or before is None:
        return []
    now = floors.mse[Conditioning.NONE if conditioning is Conditioning.IMAGE else conditioning]
    if abs(before - now) > 1e-5 * now:
        return []
    if floors.mse[Conditioning.NONE] <= 0:  # there is nothing to learn, however long
        begun = ""
    say = floors.position if begun else floors.verdict
    measured = {name: value for name, value in metrics.items() if is_measured_against(name, "mse")}
    grey = math.prod(model.image_shape) * math.log(2)
    sentences = []
    for name, value in measured.items():
        nats = _nats(name, metrics)
        if value > floors.mse[Conditioning.NONE] and nats > _WORSE * grey:
            sentences.append(
                f"{name} – no better than the mean image: {floors.position(value, conditioning)}, and {nats:,.4g} nats "
                f"per image, where plain grey has {grey:,.4g}: it diverged, or overfitted if the training loss is low; "
                "train with a smaller --model.optimizer.lr"
            )
        else:
            sentences.append(f"{name} – {begun}{say(value, conditioning)}")
    return sentences


def _nats(name: str, metrics: dict[str, float]) -> float:
    """The nats per image of the output whose `mse` has this name: its BCE, with the KL where that is the objective's.

    An MSE is at most 1, and a diverged encoder shows in the KL alone, so neither would do. Under a Gaussian observation
    model nats are of densities, which the BCE of grey can't be compared with.
    """
    stage, _, rest = name.partition("/")
    bce = metrics.get(f"{stage}/{rest.replace('mse', 'bce', 1)}", 0.0)
    is_bernoulli = rest == "mse" and f"{stage}/nll" not in metrics
    return max(bce, -metrics.get(f"{stage}/elbo", 0.0)) if is_bernoulli else bce


def _hardly_begun(trainer: pl.Trainer, step: int) -> str:
    """Says so, where it is too early to judge: after less than an epoch, or after few steps."""
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, DataModule):
        return ""
    images_of_a_step = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    if step >= FEW_STEPS and step * images_of_a_step >= data.num_train:
        return ""
    return f"hardly trained yet ({step:,} {'step' if step == 1 else 'steps'}): "


def _diversity(share: float, samples: int, early: bool) -> str:
    words = f"{samples:,} samples have {100 * share:.1f} % of the data's variance"
    if share < _ALIKE and not early:
        words = f"collapsed: {words}"
    return f"{words}; no output is paired with an image, so an MSE has no floor"

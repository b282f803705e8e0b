"""What TensorBoard's Text tab says of a run, in words."""

import inspect
from collections.abc import Sequence

import lightning.pytorch as pl

from encdec.callbacks.image_grids import tensorboard_writers
from encdec.callbacks.overview import GROUP
from encdec.data import DataModule
from encdec.paradigms import Paradigm
from encdec.types import Conditioning

ABOUT, VERDICT = "About this run", "Verdict"
"""Tags of what is said at the start and at the end."""
_FLOOR = (
    "- `…/floor`: the loss of the best output with this conditioning, found on the training split.\n"
    "- `…/gap`: the metric less its floor. At 0 there is nothing left to learn with this conditioning."
)
_CONDITIONING = {
    Conditioning.NONE: (
        "An output depends on nothing of the image that it is compared with, so the best output is the mean image.",
        _FLOOR,
    ),
    Conditioning.LABEL: (
        "An output depends on the label of the image that it is compared with, so the best output is the mean image "
        "of its class.",
        f"{_FLOOR}\n- `…/mean_image`: the error of the mean image of all classes.",
    ),
    Conditioning.IMAGE: (
        "An output depends on the image that it is compared with, so its MSE can fall to 0, and the floor of its BCE "
        "is the entropy of the pixels.",
        f"{_FLOOR}\n- `…/mean_image`: the error of one and the same output for all images, the mean image: a model "
        "that is not below it tells no images apart.\n"
        "- `…/pca`: the error of PCA with as many components as there are latent dimensions.",
    ),
}
_UNPAIRED = (
    "No output is paired with an image, so no error has a floor.",
    f"- `{GROUP}/sample_variance`: how much samples differ, as a share of the data's variance. At 0 all samples are "
    "one image.",
)
_CHARTS = f"""**Time Series and Scalars** begin with the charts of `{GROUP}`, of the validation split. `loss` is the
objective, `mse` the squared error per pixel, `bce` and `elbo` are nats per image. The line with this run's name is the
metric; the others are named after it:

{{lines}}

Below are all scalars: `train/…`, `val/…`, after `encdec test` also `test/…`. A validation scalar is the exact mean over
the split; a training scalar is the mean over the images since the point before it.

**Images**: `images/outputs` has validation images in one row and below them the outputs that were measured;
`images/samples` are decoded from the same noise throughout; `images/mean_image` and `images/class_means` are what the
floors are the losses of.

**Custom Scalars** has training and validation on one chart; **HParams** has the settings beside the last metrics. The
run's `config.yaml` has all settings."""


def run_line(trainer: pl.Trainer, model: pl.LightningModule, data: DataModule) -> str:
    """What is trained on what, in one line."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"{type(model).__name__}, {parameters:,} parameters, on {type(data).__name__}: "
        f"{data.num_train:,} images of {'×'.join(map(str, data.image_shape))} to train, "
        f"{len(data.splits['val'].labels):,} to validate; {_devices(trainer)}; seed {data.seed}"
    )


def about(trainer: pl.Trainer, model: pl.LightningModule) -> str:
    """What a run is and how to read its charts, in Markdown."""
    data = getattr(trainer, "datamodule", None)
    first = f"{run_line(trainer, model, data)}." if isinstance(data, DataModule) else f"{type(model).__name__}."
    objective = (inspect.getdoc(type(model)) or "").partition("\n\n")[0]
    sees, lines = _UNPAIRED
    if isinstance(model, Paradigm) and model.conditioning is not None:
        sees, lines = _CONDITIONING[model.conditioning]
    parts = [first, *[f"```\n{objective}\n```"] * bool(objective), sees, _CHARTS.format(lines=lines)]
    parts.append(f"What came out is said under *{VERDICT}* when the training is over.")
    return "\n\n".join(parts)


def write_verdict(trainer: pl.Trainer, sentences: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
    """Say what came out of a training.

    Args:
        trainer: that trained.
        sentences: the verdicts.
        rows: the table of metrics; its first row is the heading.
        step: of the last weights.
    """
    lines = [f"| {' | '.join(' '.join(cell.split()) for cell in row)} |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    text = "\n\n".join([*sentences, "\n".join(lines)])
    for writer in tensorboard_writers(trainer):
        writer.add_text(VERDICT, text, step)
        writer.close()


def _devices(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device.type
    count = "" if trainer.world_size == 1 else f"{trainer.world_size} processes on "
    return f"{count}{device}, {trainer.precision}"

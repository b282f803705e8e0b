"""What TensorBoard shows beside scalars and pictures: the layout of the charts and the hyper-parameters."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import FileWriter, SummaryWriter
from torch.utils.tensorboard.summary import hparams

from encdec.callbacks.image_grids import tensorboard_writers
from encdec.callbacks.keep_run import resumed_at

_VARIANTS = ("", "_zeros")


def _chart(term: str) -> list[Any]:
    return ["Multiline", [f"{stage}/{term}{variant}$" for stage in ("train", "val", "test") for variant in _VARIANTS]]


def _floor_chart(stage: str, term: str) -> list[Any]:
    names = [f"{term}{variant}" for variant in _VARIANTS] + [f"{term}_gap{variant}" for variant in _VARIANTS]
    return [
        "Multiline",
        [f"{stage}/{name}$" for name in [*names, *(f"{term}_{other}" for other in ("floor", "mean_image", "pca"))]],
    ]


LAYOUT = {
    "How close": {
        "MSE (per pixel)": _chart("mse"),
        "BCE (nats per image)": _chart("bce"),
        "Explained variance (0 = mean image, 1 = perfect)": _chart("explained_variance"),
    },
    "Floors: the best output with the same conditioning": {
        f"{stage}: {title}, its floor and the gap": _floor_chart(stage, term)
        for stage in ("val", "train")
        for term, title in (("mse", "MSE (per pixel)"), ("bce", "BCE (nats per image)"))
    },
    "Objective (per image)": {
        "Loss": _chart("loss"),
        "KL (nats)": _chart("kl"),
        "ELBO (nats)": _chart("elbo"),
        "Negative log-likelihood (nats)": _chart("nll"),
    },
    "Training": {
        "Learning rate": ["Multiline", ["lr-.*"]],
        "Images per second": ["Multiline", ["images_per_second"]],
    },
}
"""TensorBoard's Custom Scalars tab: the same charts for every run, training, validation and test on each."""


class Dashboard(pl.Callback):
    """Lays out TensorBoard's Custom Scalars tab, and fills its HParams tab.

    The hyper-parameters are those of model and data, flattened (`model/beta`), with the number of parameters,
    of processes and of epochs; their metrics are the last validation's.
    """

    def __init__(self) -> None:
        self._written = False

    def state_dict(self) -> dict[str, Any]:
        """Whether the hyper-parameters are written."""
        return {"written": self._written}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._written = state_dict["written"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the layout; in a resumed run, take back what was logged after its checkpoint."""
        step = resumed_at(trainer)
        if step is None:
            self._written = False  # a new run, even if it starts from another one's checkpoint
        for writer in tensorboard_writers(trainer):
            if step is not None:
                start = Event(session_log=SessionLog(status=SessionLog.START))
                file_writer(writer).add_event(start, step + 1 if step else 0)
            if not step:
                writer.add_custom_scalars(LAYOUT)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the hyper-parameters, once it is known which metrics there are."""
        if self._written or trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._written = True
        datamodule = getattr(trainer, "datamodule", None)
        values = {
            **flatten({"model": pl_module.hparams, "data": {} if datamodule is None else datamodule.hparams}),
            "parameters": sum(parameter.numel() for parameter in pl_module.parameters()),
            "processes": trainer.world_size,
            "precision": str(trainer.precision),
            "max_epochs": trainer.max_epochs,
        }
        values = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in values.items()}
        metrics = {name: 0.0 for name in trainer.callback_metrics if name.startswith("val/")}
        for writer in tensorboard_writers(trainer):
            for summary in hparams(values, metrics):  # the metrics' values are those of the scalars of that name
                file_writer(writer).add_summary(summary)


def file_writer(writer: SummaryWriter) -> FileWriter:
    """What writes a TensorBoard writer's events; a new file where an earlier training has closed its own."""
    attributes: Any = writer  # torch annotates these two as None
    if attributes.file_writer is None:
        attributes.file_writer = FileWriter(writer.get_logdir())
        attributes.all_writers = {writer.get_logdir(): attributes.file_writer}
    found: FileWriter = attributes.file_writer
    return found


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with one name each: {"model": {"beta": 1}} -> {"model/beta": 1}; classes by short name."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key == "_instantiator":
            continue
        if key in ("_class_path", "class_path"):
            flat[prefix.rstrip("/")] = value.rpartition(".")[2]
        elif isinstance(value, Mapping):
            flat |= flatten(value, prefix if key == "init_args" else f"{name}/")
        else:
            flat[name] = value
    return flat

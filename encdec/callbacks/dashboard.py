"""What TensorBoard shows beside scalars and pictures: the layout of the charts and the hyper-parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams

from encdec.callbacks.image_grids import tensorboard_writers
from encdec.callbacks.keep_run import resumed_at
from encdec.callbacks.overview import GROUP, file_writer, take_back, write_overview
from encdec.callbacks.run_text import ABOUT, about

_VARIANTS = ("", "_zeros")
_TICKED = ("data", "model", "model/latent_dim", "model/optimizer/lr", "parameters")
_COLUMNS = tuple(
    f"val/{name}" for name in ("loss", "mse", "bce", "elbo", "sample_variance", "explained_variance", "kl", "nll")
)
_FOLLOWS = (
    *(f"model/{name}" for name in ("image_shape", "num_classes", "num_train", "seed")),
    *(f"data/{name}" for name in ("data_dir", "num_workers", "val_fraction", "split_seed")),
)


def _chart(term: str) -> list[Any]:
    return ["Multiline", [f"{stage}/{term}{variant}$" for stage in ("train", "val", "test") for variant in _VARIANTS]]


LAYOUT = {
    "Floors: the best output with the same conditioning (validation)": {
        title: ["Multiline", [f"{GROUP}/{term}{variant}$" for variant in _VARIANTS]]
        for term, title in (
            ("mse", "MSE (per pixel), its floor and the gap"),
            ("bce", "BCE (nats per image), its floor and the gap"),
        )
    },
    "How close": {
        "MSE (per pixel)": _chart("mse"),
        "BCE (nats per image)": _chart("bce"),
        "Explained variance (0 = mean image, 1 = perfect)": _chart("explained_variance"),
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
    """What TensorBoard shows beside scalars and images: the first charts, a layout, hyper-parameters and a text.

    The hyper-parameters are those settings of model and data in which runs are likely to differ, flattened
    (`model/beta`), with the number of parameters and of epochs; their metrics are the last validation's.
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
        """Write the layout and the text; in a resumed run, take back what was logged after its checkpoint."""
        step = resumed_at(trainer)
        if step is None:
            self._written = False  # a new run, even if it starts from another one's checkpoint
        for writer in tensorboard_writers(trainer):
            if step is not None:
                take_back(writer, step + 1 if step else 0)
            if not step:
                writer.add_custom_scalars(LAYOUT)
                writer.add_text(ABOUT, about(trainer, pl_module), 0)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the first charts; and the hyper-parameters, once it is known which metrics there are."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        for writer in tensorboard_writers(trainer):
            write_overview(writer, metrics, trainer.global_step)
            if not self._written:
                for summary in hyperparameters(trainer, pl_module, [name for name in _COLUMNS if name in metrics]):
                    file_writer(writer).add_summary(summary)
        self._written = True


def hyperparameters(trainer: pl.Trainer, model: pl.LightningModule, metrics: Sequence[str]) -> list[Summary]:
    """What fills the HParams tab.

    Args:
        trainer: that trains.
        model: with its hyper-parameters.
        metrics: the names of the scalars that are shown beside them.
    """
    data = getattr(trainer, "datamodule", None)
    flat = flatten({"model": model.hparams, "data": {} if data is None else data.hparams})
    values = {
        **{name: value for name, value in flat.items() if value is not None and not _is_useless(name)},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "max_epochs": trainer.max_epochs,
    }
    values = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in values.items()}
    experiment, *session = hparams(values, dict.fromkeys(metrics, 0.0))  # the values are the scalars'
    # TensorBoard ticks five columns: those that are said to differ, and then by name
    content = HParamsPluginData.FromString(experiment.value[0].metadata.plugin_data.content)
    for column in content.experiment.hparam_infos:
        column.differs = column.name in _TICKED
    ticked = Summary.Value(tag=metadata.EXPERIMENT_TAG, metadata=metadata.create_summary_metadata(content))
    return [Summary(value=[ticked]), *session]


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


def _is_useless(name: str) -> bool:
    """Whether a setting follows from others, or is one of torch's details."""
    return (name.startswith(("model/optimizer/", "model/lr_scheduler/")) and name not in _TICKED) or name in _FOLLOWS

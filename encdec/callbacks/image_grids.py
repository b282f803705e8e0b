"""Pictures in TensorBoard."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from encdec.data import DataModule
from encdec.evaluation.grids import comparison, drawing, enlarge, grid, sample_labels, shown_images
from encdec.objectives.losses import pixel_means
from encdec.objectives.noise import normal
from encdec.paradigms import Paradigm
from encdec.types import Batch, require_positive, scaled

_SAMPLES = 2  # which draw of `normal` the samples' noise is


def tensorboard_writers(trainer: pl.Trainer) -> list[SummaryWriter]:
    """The TensorBoard writers of this process: none on processes other than the first."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def fixed_noise(count: int, dim: int) -> Tensor:
    """The noise that all pictures of samples start from, (count, dim): the same in every run."""
    return normal(0, _SAMPLES, torch.arange(count), dim)


class ImageGrids(pl.Callback):
    """Image grids after a validation: inputs beside what the paradigm makes of them, and samples.

    `images/outputs`: validation images, the same in every run and some of each class, and below them the outputs that
    `val/mse` and its variants are measured on. `images/samples`: decodings of prior codes that stay the same during a
    run, so that one sees them evolve; one class in each column where the paradigm knows classes. A picture that can't
    be drawn costs a sentence.

    Args:
        every_n_epochs: how often, counted from the first epoch; the last epoch is drawn in any case.
        num_images: how many validation images are shown.

    Raises:
        UserError: a number is not positive.
    """

    def __init__(self, every_n_epochs: int = 1, num_images: int = 16) -> None:
        self.every_n_epochs, self.num_images = every_n_epochs, num_images
        require_positive(self, "every_n_epochs", "num_images")
        self._drawn: dict[str, Tensor] = {}

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Draw, with the weights that are validated: they are the averaged ones where a callback averages."""
        epoch = trainer.current_epoch
        due = epoch % self.every_n_epochs == 0 or epoch + 1 == trainer.max_epochs
        due = due and batch_idx == 0 and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not (due and tensorboard_writers(trainer) and isinstance(pl_module, Paradigm)):
            return
        shown = self._shown(trainer, batch)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            outputs = pl_module.measured_losses(shown).outputs()  # where that fails, so does the validation
            with drawing("images/outputs"):
                rows = [shown.x.float(), *map(pixel_means, outputs.values())]
                if outputs:
                    self._drawn["images/outputs"] = enlarge(comparison(rows, columns=8))
            with drawing("images/samples"):
                y, columns = sample_labels(pl_module.num_classes)
                noise = fixed_noise(len(y), pl_module.noise_dim)
                samples = pl_module.sample(y.to(pl_module.device), noise.to(pl_module.device))
                self._drawn["images/samples"] = enlarge(grid(samples, columns))

    def _shown(self, trainer: pl.Trainer, batch: Batch) -> Batch:
        """Validation images, some of each class; the first of the first batch where the data are not encdec's."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, DataModule):
            return batch.rows(slice(self.num_images))
        images, device = data.splits["val"], batch.x.device
        positions = shown_images(images.labels, self.num_images)
        (pixels,) = images.stream([positions])
        x, y = scaled(pixels.to(device)), images.labels[positions].to(device)
        shown: Batch = trainer.precision_plugin.convert_input(Batch(x, y, positions.to(device), "val"))
        return shown

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what was drawn."""
        for writer in tensorboard_writers(trainer):
            for name, picture in self._drawn.items():
                with drawing(name):
                    writer.add_image(name, picture, trainer.global_step)
        self._drawn = {}

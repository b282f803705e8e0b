"""How much decoding a training costs: forward passes of the decoder for each training image."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from encdec.data.loader import Loader
from encdec.training.step import steps_of


class DecoderCalls(pl.Callback):
    """Counts the images that `decoder` makes in the first epoch, by a hook that is gone after it.

    The work of `before_epoch` counts too, that of validations does not. The count is in checkpoints, so that a run that
    is resumed within the epoch goes on with it and a test reports it; see `in_checkpoint`. Nothing is counted where the
    decoder is compiled, as its hooks would be too, or where there is no module `decoder`.
    """

    def __init__(self) -> None:
        self._decoded, self._images, self._is_whole = 0, 0, False
        self._hook: RemovableHandle | None = None
        self._is_training = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin, or go on within the first epoch."""
        steps, decoder = steps_of(trainer), getattr(pl_module, "decoder", None)
        begun = steps is not None and steps.batches > 0
        if trainer.current_epoch > 0 or self._is_whole or (begun and not self._decoded):
            return  # a checkpoint from within the epoch, of a run that did not count
        if isinstance(decoder, nn.Module) and not getattr(pl_module, "is_compiled", False):
            self._hook, self._is_training = decoder.register_forward_hook(self._count), True

    def _count(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._is_training and isinstance(output, Tensor):
            self._decoded += len(output)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave validations out."""
        self._is_training = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count again."""
        self._is_training = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End with the first epoch."""
        self._see(trainer)
        if self._is_whole and self._decoded and self._images and hasattr(pl_module, "decoder_calls"):
            model: Any = pl_module
            model.decoder_calls = self._decoded / self._images
        self._remove()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._remove()

    def _see(self, trainer: pl.Trainer) -> None:
        """Find out how many images this process has trained on so far."""
        loader, steps = trainer.train_dataloader, steps_of(trainer)
        if self._hook is None or steps is None or not isinstance(loader, Loader):
            return
        self._images = min(steps.batches * loader.batch_size, loader.share)
        self._is_whole = steps.batches >= steps.in_all

    def _remove(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Find out how far the count is, before it is saved."""
        self._see(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The images that were decoded and trained on, and whether these are all of the first epoch."""
        return {"decoded": self._decoded, "images": self._images, "is_whole": self._is_whole}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._decoded, self._images, self._is_whole = (state_dict[name] for name in ("decoded", "images", "is_whole"))


def in_checkpoint(checkpoint: Mapping[str, Any]) -> float | None:
    """Forward passes of the decoder for each training image, as a checkpoint holds them; None where it does not."""
    state = checkpoint.get("callbacks", {}).get(DecoderCalls.__qualname__)
    if not isinstance(state, dict) or state.get("is_whole") is not True:
        return None
    decoded, images = state.get("decoded"), state.get("images")
    if type(decoded) is not int or type(images) is not int or decoded < 1 or images < 1:
        return None
    return decoded / images

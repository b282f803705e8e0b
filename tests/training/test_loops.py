"""Our loop over batches does what Lightning's does: the same weights, counters, curves and calls of hooks."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from encdec import loops
from encdec.cli import quiet
from encdec.data import Digits
from encdec.paradigms import VAE
from tests.conftest import RunCLI, events

RUN = ("--trainer.max_epochs=3", "--trainer.log_every_n_steps=4", "--floors.enabled=false")


def run_of(name: str) -> tuple[dict[str, Any], dict[str, list[tuple[int, float]]]]:
    """The last checkpoint of a run, and its scalars but for the speed."""
    folder = Path(f"lightning_logs/{name}/version_0")
    checkpoint: dict[str, Any] = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    run = events(folder)
    scalars = {tag: [(e.step, e.value) for e in run.Scalars(tag)] for tag in run.Tags()["scalars"]}
    return checkpoint, {tag: points for tag, points in scalars.items() if tag != "images_per_second"}


@pytest.mark.parametrize(
    "flags",
    [
        ("--config=configs/vae.yaml",),
        ("--config=configs/ae_zeros.yaml", "--trainer.accumulate_grad_batches=3", "--trainer.gradient_clip_val=0.1"),
        ("--config=configs/decoder.yaml", "--trainer.precision=bf16-mixed", "--trainer.val_check_interval=0.3"),
        ("--config=configs/vae_noenc.yaml", "--trainer.precision=64-true", "--trainer.max_steps=17"),
        ("--config=configs/autodecoder.yaml", "--model.code_steps=2", "--trainer.limit_train_batches=4"),
        ("--config=configs/ae.yaml", "--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=1",
         "--trainer.limit_val_batches=1", "--trainer.check_val_every_n_epoch=2"),
    ],
    ids=["plain", "accumulation and clipping", "bf16 and validations", "double and max_steps", "plugin", "scheduler"],
)  # fmt: skip
def test_a_run_is_the_one_that_lightnings_own_loop_makes(
    flags: tuple[str, ...], cli: RunCLI, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = loops.EpochLoop._step, []

    def counted(*args: Any) -> Any:
        steps.append(1)
        return step(*args)

    monkeypatch.setattr(loops.EpochLoop, "_step", counted)
    cli("fit", *flags, *RUN, "--name=ours")
    assert steps, "the run must go through the loop that is tested"
    monkeypatch.setattr(loops, "install", lambda *_: None)
    cli("fit", *flags, *RUN, "--name=lightnings")
    (ours, our_scalars), (theirs, their_scalars) = run_of("ours"), run_of("lightnings")
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step", "epoch"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
    assert our_scalars == their_scalars


class _Recorder(pl.Callback):
    """Writes down which hooks are called in which order, logs as callbacks may, and ends the second epoch early."""

    HOOKS = (
        "on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step",
        "on_train_batch_start", "on_train_batch_end", "on_validation_batch_start", "on_validation_batch_end",
    )  # fmt: skip

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        for name in self.HOOKS:
            setattr(self, name, self._recording(name))

    def _recording(self, name: str) -> Any:
        def hook(trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
            self.calls.append((name, trainer.global_step))
            if name == "on_train_batch_end":
                module.log("seen", float(args[-1]), on_step=True, on_epoch=False)

        return hook


@pytest.mark.parametrize("accumulated", [1, 4])
def test_callbacks_see_the_same_calls_and_log_the_same(accumulated: int, tmp_path: Path) -> None:
    quiet.install()  # or a deprecation that Lightning causes ends the test
    results = []
    for own in (True, False):
        torch.manual_seed(0)
        recorder, data = _Recorder(), Digits(batch_size=200)
        trainer = pl.Trainer(
            max_epochs=2, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, callbacks=[recorder],
            enable_progress_bar=False, enable_model_summary=False, accumulate_grad_batches=accumulated,
            default_root_dir=tmp_path, num_sanity_val_steps=0,
        )  # fmt: skip
        if own:
            loops.install(trainer)
        trainer.fit(VAE(image_shape=data.image_shape), data)
        results.append((recorder.calls, trainer.callback_metrics["seen"].item(), trainer.global_step))
    assert results[0] == results[1]
    assert len(results[0][0]) > 20

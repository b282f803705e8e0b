"""A run that is killed and started again with `--resume` ends as one that was not."""

import signal
from pathlib import Path

import pytest

from . import killing
from .conftest import ROOT

LAST = {"last.ckpt", "best.ckpt"}
BASE = ("--trainer.max_epochs=4", "--trainer.log_every_n_steps=3", "--images.every_n_epochs=2", "--data.batch_size=60")
"""22 steps in each of 4 epochs on the digits, with a validation of 3 batches after each."""
AUTODECODER = ("--config=configs/autodecoder.yaml", "--model.code_steps=2")
SCHEDULER = ("--config=configs/vae.yaml", "--model.lr_scheduler")
CASES: dict[str, tuple[tuple[str, ...], str, int]] = {
    # every paradigm, in the middle of things
    **{
        f"{path.stem}": ((f"--config=configs/{path.name}",), moment, call)
        for path, (moment, call) in zip(
            sorted((ROOT / "configs").glob("*.yaml")),
            [("a step", 50), ("a validation", 5), ("a checkpoint's writing", 5), ("a checkpoint's replacement", 6),
             ("a step", 23), ("a step", 88), ("the end of a validation", 3),
             ("after a checkpoint's replacement", 4)] * 4,
            strict=False,
        )
    },
    "codes": (("--config=configs/vae_noenc.yaml", "--model.codes=fixed"), "a step", 47),
    "K": (("--config=configs/vae_noenc.yaml", "--model.num_prior_samples=8"), "a step", 30),
    # every in-memory data module
    **{name: (("--config=configs/vae.yaml", f"--data={name}", "--data.batch_size=9"), "a step", 11)
       for name in ("MNIST", "FashionMNIST", "CIFAR10")},
    "ImageFolder": (("--config=configs/vae.yaml", "--data=ImageFolder", "--data.path=data/pictures",
                     "--data.batch_size=4"), "a step", 8),
    # ways to train
    "accumulation": (("--config=configs/vae.yaml", "--trainer.accumulate_grad_batches=4",
                      "--trainer.gradient_clip_val=1"), "a step", 59),
    "bf16": (("--config=configs/vae.yaml", "--trainer.precision=bf16-mixed"), "a step", 59),
    "double": (("--config=configs/vae.yaml", "--trainer.precision=64-true"), "a validation", 8),
    "StepLR": ((*SCHEDULER, "StepLR", "--model.lr_scheduler.step_size=1", "--model.lr_scheduler.gamma=0.5"),
               "a step", 70),
    "OneCycleLR": ((*SCHEDULER, "OneCycleLR", "--model.lr_scheduler.max_lr=0.01",
                    "--model.lr_scheduler.total_steps=5"), "a validation", 7),
    "ReduceLROnPlateau": ((*SCHEDULER, "lightning.pytorch.cli.ReduceLROnPlateau", "--model.lr_scheduler.monitor=val/kl",
                           "--model.lr_scheduler.patience=0"), "a step", 70),
    "SGD with momentum": (("--config=configs/ae.yaml", "--model.optimizer=SGD", "--model.optimizer.lr=0.01",
                           "--model.optimizer.momentum=0.9"), "a step", 70),
    "validations within epochs": (("--config=configs/vae.yaml", "--trainer.val_check_interval=5"), "a step", 60),
    "validations every 2 epochs": (("--config=configs/vae.yaml", "--trainer.check_val_every_n_epoch=2"), "a step", 80),
    "validations across epochs": (("--config=configs/vae.yaml", "--trainer.val_check_interval=30",
                                   "--trainer.check_val_every_n_epoch=null"), "a step", 80),
    "part of each epoch": (("--config=configs/vae.yaml", "--trainer.limit_train_batches=7"), "a step", 20),
    "max_steps": (("--config=configs/vae.yaml", "--trainer.max_steps=70"), "a step", 60),
    # moments
    "before the first checkpoint": (("--config=configs/vae.yaml",), "a step", 10),
    "in the first checkpoint": (("--config=configs/vae.yaml",), "a checkpoint's writing", 1),
    "between best and last": (("--config=configs/vae.yaml",), "a checkpoint's writing", 4),
    "after the last checkpoint": (("--config=configs/vae.yaml",), "the report", 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_like_one_that_was_not(name: str, project: Path) -> None:
    args, moment, call = CASES[name]
    command = ("fit", *args[:1], *BASE, *args[1:], "--resume")
    code, output = killing.run(project, *command, "--name=whole")
    assert code == 0, output
    code, output = killing.run(project, *command, "--name=killed", moment=moment, call=call)
    assert code == -signal.SIGKILL, output
    code, output = killing.run(project, *command, "--name=killed")
    assert code == 0, output
    whole, killed = (killing.left(project / f"lightning_logs/{name}/version_0") for name in ("whole", "killed"))
    assert killing.differences(whole, killed) == []
    assert len(list((project / "lightning_logs/killed").iterdir())) == 1, "it goes on in the same folder"

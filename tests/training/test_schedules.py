"""Schedules count what they are meant for, are as long as the run, and go on where they were."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from encdec.training.schedules import RunLength, check_length, meant_for
from encdec.types import UserError
from tests.conftest import ON_CPU, RunCLI, events, refused

VAE = ("fit", "--config=configs/vae.yaml", "--floors.enabled=false", "--images.every_n_epochs=100",
       "--trainer.enable_progress_bar=false")  # fmt: skip
RUN = ("--trainer.max_epochs=3", "--trainer.limit_train_batches=4", "--trainer.log_every_n_steps=1")
"""12 steps in 3 epochs."""
NAME = "--model.lr_scheduler"
ONE_CYCLE = (f"{NAME}=OneCycleLR", f"{NAME}.max_lr=0.01")
COSINE = f"{NAME}=CosineAnnealingLR"
WARM_UP = (
    f"{NAME}={{class_path: Phases, init_args: {{milestones: [5], schedulers: ["
    "{class_path: LinearLR, init_args: {start_factor: 0.1, total_iters: 5}}, "
    "{class_path: CosineAnnealingLR, init_args: {T_max: 7}}]}}",
    f"{NAME}_interval=step",
)


def adam() -> torch.optim.Optimizer:
    return torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1e-2)


def one_cycle(optimizer: torch.optim.Optimizer, steps: int = 12) -> LRScheduler:
    return OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)


def cosine(optimizer: torch.optim.Optimizer) -> LRScheduler:
    return CosineAnnealingLR(optimizer, T_max=12)


def warm_up(optimizer: torch.optim.Optimizer) -> LRScheduler:
    return SequentialLR(
        optimizer, [LinearLR(optimizer, 0.1, total_iters=5), CosineAnnealingLR(optimizer, T_max=7)], milestones=[5]
    )


def rates(make: Any, steps: int) -> list[float]:
    """The rate of each step, by torch alone."""
    optimizer = adam()
    schedule, found = make(optimizer), []
    for _ in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return found


def logged(name: str = "vae", version: int = 0) -> list[float]:
    points = events(f"lightning_logs/{name}/version_{version}").Scalars("lr-Adam")
    return [point.value for point in points]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((*ONE_CYCLE, f"{NAME}.total_steps=12"), lambda: rates(one_cycle, 12)),
        ((*ONE_CYCLE, f"{NAME}.epochs=3", f"{NAME}.steps_per_epoch=4"), lambda: rates(one_cycle, 12)),
        ((COSINE, f"{NAME}.T_max=12", f"{NAME}_interval=step"), lambda: rates(cosine, 12)),
        (WARM_UP, lambda: rates(warm_up, 12)),
        # counted in epochs: each rate stays for the 4 steps of one
        ((f"{NAME}=StepLR", f"{NAME}.step_size=1"), lambda: [1e-2] * 4 + [1e-3] * 4 + [1e-4] * 4),
        ((f"{NAME}=CyclicLR", f"{NAME}.base_lr=0.001", f"{NAME}.max_lr=0.002", f"{NAME}.step_size_up=2",
          f"{NAME}.cycle_momentum=false"), lambda: [0.001, 0.0015, 0.002, 0.0015] * 3),
    ],
    ids=["one cycle", "one cycle by epochs", "cosine", "warm-up", "steps of epochs", "cyclic"],
)  # fmt: skip
def test_a_schedule_is_stepped_as_it_is_meant(
    flags: tuple[str, ...], expected: Any, cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    cli(*VAE, *RUN, *flags)
    assert logged() == pytest.approx(expected(), rel=1e-6)
    assert "stepped after each epoch" if "StepLR" in flags[0] else "stepped after each step" in capsys.readouterr().out


def test_accumulated_gradients_make_one_step_of_the_schedule(cli: RunCLI) -> None:
    cli(*VAE, *RUN, *ONE_CYCLE, f"{NAME}.total_steps=6", "--trainer.accumulate_grad_batches=2")
    assert logged() == pytest.approx(rates(lambda optimizer: one_cycle(optimizer, 6), 6), rel=1e-6)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
@pytest.mark.parametrize("flags", [(*ONE_CYCLE, f"{NAME}.total_steps=12"), WARM_UP], ids=["one cycle", "warm-up"])
@pytest.mark.parametrize("step", [3, 8])
def test_a_training_that_goes_on_has_the_same_rates_and_ends_with_the_same_weights(
    step: int, flags: tuple[str, ...], cli: RunCLI, project: Path
) -> None:
    every = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_top_k=-1",
             "--trainer.callbacks.every_n_train_steps=1", "--trainer.callbacks.dirpath=kept",
             "--trainer.callbacks.filename={step}"]  # fmt: skip
    cli(*VAE, *RUN, *flags, *every)
    cli(*VAE, *RUN, *flags, f"--ckpt_path=kept/step={step}.ckpt")
    assert logged(version=1) == logged()[step:]
    first, second = (
        torch.load(project / f"lightning_logs/vae/version_{i}/checkpoints/last.ckpt", weights_only=True) for i in (0, 1)
    )
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_equal(first[key], second[key])


def assert_equal(first: Any, second: Any) -> None:
    """Equal to the last bit, however deep."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list | tuple):
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "longer than the run": ((*ONE_CYCLE, f"{NAME}.total_steps=13"), "longer than the run: the run makes 12 steps in 3"),
    "over before the run": ((*ONE_CYCLE, f"{NAME}.total_steps=11"), "over before the run is: the run makes 12 steps"),
    "longer, as gradients are accumulated": (
        (*ONE_CYCLE, f"{NAME}.total_steps=12", "--trainer.accumulate_grad_batches=2"), "set total_steps to 6"),
    "max_steps ends it": ((*ONE_CYCLE, f"{NAME}.total_steps=12", "--trainer.max_steps=7"), "set total_steps to 7"),
    "a run without an end": ((*ONE_CYCLE, f"{NAME}.total_steps=12", "--trainer.max_epochs=-1"),
                             "set trainer.max_steps"),
    "steps taken for epochs": ((COSINE, f"{NAME}.T_max=12"), "or model.lr_scheduler_interval to step"),
    "neither steps nor epochs": ((COSINE, f"{NAME}.T_max=99"), "set T_max to at most 3."),
    "a warm-up without an end": ((f"{NAME}=LinearLR", f"{NAME}.total_iters=12"), "longer than the run"),
    "a milestone after the end": ((f"{NAME}=MultiStepLR", f"{NAME}.milestones=[1,4]"), "milestones = 4"),
    "a phase that is cut": ((WARM_UP[0].replace("T_max: 7", "T_max: 8"), WARM_UP[1]), "longer than its phase"),
    "a phase that never begins": (WARM_UP[:1], "Phases counts epochs up to milestones"),
    "OneCycleLR in a phase": ((WARM_UP[0].replace("CosineAnnealingLR, init_args: {T_max: 7}",
                                                  "OneCycleLR, init_args: {max_lr: 1, total_steps: 6}"), WARM_UP[1]),
                              "over before its phase is"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_schedule_of_another_length_is_refused_before_training(
    name: str, cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, expected = REFUSED[name]
    assert expected in refused(capsys, *VAE, *RUN, *flags, *ON_CPU)
    assert not list(project.rglob("*.ckpt"))


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "T_max of 0": ((COSINE, f"{NAME}.T_max=0"), "CosineAnnealingLR has T_max = 0, but it must be at least 1"),
    "step_size of 0": ((f"{NAME}=StepLR", f"{NAME}.step_size=0"), "StepLR has step_size = 0"),
    "step_size_up of 0": ((f"{NAME}=CyclicLR", f"{NAME}.base_lr=1", f"{NAME}.max_lr=2", f"{NAME}.step_size_up=0",
                           f"{NAME}.cycle_momentum=false"), "it divides by a setting that is 0"),
    "T_0 of 0": ((f"{NAME}=CosineAnnealingWarmRestarts", f"{NAME}.T_0=0"), "Expected positive integer T_0"),
    "a rate that explodes": ((f"{NAME}=ExponentialLR", f"{NAME}.gamma=1e300"), "sets the learning rate to inf"),
    "a negative rate": ((f"{NAME}=ExponentialLR", f"{NAME}.gamma=-1"), "sets the learning rate to -0.01"),
    "milestones that fall": ((WARM_UP[0].replace("[5]", "[0]"),), "milestones must increase"),
    "an interval of nothing": ((f"{NAME}_interval=step",), "there is no scheduler"),
    "an interval that is none": ((f"{NAME}_interval=week",), "'step'"),
    "an interval of validations": ((f"{NAME}=lightning.pytorch.cli.ReduceLROnPlateau", f"{NAME}.monitor=val/loss",
                                    f"{NAME}_interval=step"), "after each validation"),
    "sparse gradients": (("--model.optimizer=SparseAdam",), "SparseAdam can't train this model"),
    "an optimizer with a closure": (("--model.optimizer=LBFGS",), "LBFGS measures the loss many times in a step"),
    "matrices only": (("--model.optimizer=Muon",), "Muon only supports 2D parameters"),
    "a step that can be differentiated": (("--model.optimizer.differentiable=true",), "Adam can't train this model"),
    "two kernels": (("--model.optimizer.fused=true", "--model.optimizer.foreach=true"), "the optimizer can't be made"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_settings_that_would_fail_in_training_are_refused_before_there_is_a_run(
    name: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, expected = WRONG[name]
    assert expected in refused(capsys, *VAE, *flags, *ON_CPU)
    assert not (project / "lightning_logs").exists()


@pytest.mark.parametrize("optimizer", ["ASGD", "Adadelta", "Adafactor", "Adagrad", "AdamW", "Adamax", "NAdam", "RAdam",
                                       "RMSprop", "Rprop", "SGD"])  # fmt: skip
def test_every_other_optimizer_of_torch_trains(
    optimizer: str, cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli(*VAE, f"--model.optimizer={optimizer}", "--trainer.fast_dev_run=2", "--model.optimizer.lr=1e-3")
    assert "val/loss" in capsys.readouterr().out, "what came out is finite"


def test_a_moment_of_a_run_needs_no_shorter_schedule(cli: RunCLI, capsys: pytest.CaptureFixture[str]) -> None:
    cli(*VAE, *ONE_CYCLE, f"{NAME}.total_steps=12", "--trainer.fast_dev_run=1")
    assert "val/loss" in capsys.readouterr().out


def test_another_interval_is_another_training(cli: RunCLI, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (*VAE, *RUN, f"{NAME}=StepLR", f"{NAME}.step_size=2")
    cli(*flags)
    with pytest.raises(SystemExit) as stop:
        cli(*flags, f"{NAME}_interval=step", "--ckpt_path=lightning_logs/vae/version_0/checkpoints/last.ckpt")
    assert stop.value.code == 2
    assert "another lr_scheduler_interval" in capsys.readouterr().err


def test_what_a_class_is_meant_for() -> None:
    assert meant_for(StepLR(adam(), 1)) == "epoch"
    assert meant_for(CyclicLR(torch.optim.SGD(adam().param_groups[0]["params"], momentum=0.9), 0.1, 0.2)) == "step"
    check_length(one_cycle(adam()), "step", RunLength(12, 3))
    check_length(warm_up(adam()), "step", RunLength(12, 3))
    check_length(StepLR(adam(), 5), "epoch", RunLength(math.inf, math.inf))
    with pytest.raises(UserError, match="longer than the run"):
        check_length(one_cycle(adam()), "epoch", RunLength(12, 3))

"""A state of a training that does not fit the training that goes on from it is a sentence, before anything reads it."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import optim
from torch.optim import Optimizer

import encdec
from encdec.callbacks import BestAndLast, Dashboard
from encdec.cli import main, quiet
from encdec.data import Digits
from encdec.paradigms import Paradigm
from encdec.runs import training_state
from encdec.runs.checkpoints import read_checkpoint
from encdec.runs.training_state import MismatchError, check_optimizers
from tests.conftest import ON_CPU, RunCLI
from tests.runs.strangers import SMALL, contents, refused, refused_by_cli

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run with a scheduler, in the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
            patch.setenv(variable, "0")
        patch.chdir(tmp_path_factory.mktemp("run"))
        main(["fit", *SMALL, *ON_CPU, "--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=1"])
        yield Path("lightning_logs/vae/version_0")


@pytest.fixture
def changed(run: Path) -> Iterator[Callable[[Change], Path]]:
    """Changes its checkpoint, and puts it back."""
    path = run / "checkpoints" / "last.ckpt"
    good, best = path.read_bytes(), (run / "checkpoints" / "best.ckpt").read_bytes()
    (run / "checkpoints" / "best.ckpt").unlink()

    def change(how: Change) -> Path:
        path.write_bytes(good)
        state = contents(path)
        how(state)
        torch.save(state, path)
        return path

    yield change
    path.write_bytes(good)
    (run / "checkpoints" / "best.ckpt").write_bytes(best)


def put(*keys: Any, value: Any) -> Change:
    """Sets what the keys lead to."""

    def change(state: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


def drop(*keys: Any) -> Change:
    """Takes away what the keys lead to."""

    def change(state: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return change


def curve(names: Any, *totals: Any) -> Change:
    return put("training_curve", value={"logged_step": 1, "names": names, "totals": list(totals)})


def scores(**state: Any) -> Change:
    def change(checkpoint: Any) -> None:
        (key,) = (key for key in checkpoint["callbacks"] if key.startswith("BestAndLast"))
        checkpoint["callbacks"][key] = state

    return change


MOMENTS = ("optimizer_states", 0, "state")
GROUP = ("optimizer_states", 0, "param_groups", 0)
FIT = ("loops", "fit_loop")
BATCHES = (*FIT, "epoch_loop.batch_progress")
CURVE = "training_curve"
WRONG: dict[str, tuple[str, Change]] = {
    "a moment of another shape": ("exp_avg", put(*MOMENTS, 0, "exp_avg", value=torch.zeros(1))),
    "a moment that is larger": ("exp_avg", put(*MOMENTS, 1, "exp_avg", value=torch.zeros(4000))),
    "the second moment": ("exp_avg_sq", put(*MOMENTS, 3, "exp_avg_sq", value=torch.zeros(()))),
    "a moment turned round": ("exp_avg", lambda c: put(*MOMENTS, 0, "exp_avg", value=torch.zeros(64, 4).t())(c)),
    "a moment that repeats one number": ("exp_avg", put(*MOMENTS, 0, "exp_avg", value=torch.zeros(1).expand(4, 64))),
    "a moment of integers": ("exp_avg", put(*MOMENTS, 0, "exp_avg", value=torch.zeros(4, 64, dtype=torch.int64))),
    "a sparse moment": ("sparse", put(*MOMENTS, 0, "exp_avg", value=torch.zeros(4, 64).to_sparse())),
    "a moment without memory": ("meta", put(*MOMENTS, 0, "exp_avg", value=torch.zeros(4, 64, device="meta"))),
    "a moment that is text": ("exp_avg", put(*MOMENTS, 0, "exp_avg", value="0")),
    "a moment that is a number": ("exp_avg", put(*MOMENTS, 0, "exp_avg", value=0.0)),
    "a moment that is a list": ("exp_avg", put(*MOMENTS, 0, "exp_avg", value=[0.0] * 256)),
    "a moment that is not finite": ("exp_avg", put(*MOMENTS, 0, "exp_avg", value=torch.full((4, 64), torch.nan))),
    "no second moment": ("exp_avg_sq", drop(*MOMENTS, 0, "exp_avg_sq")),
    "one more moment": ("max_exp_avg_sq", put(*MOMENTS, 0, "max_exp_avg_sq", value=torch.zeros(4, 64))),
    "a step of many numbers": ("step", put(*MOMENTS, 0, "step", value=torch.zeros(4, 64))),
    "a negative step": ("step", put(*MOMENTS, 0, "step", value=torch.tensor(-1.0))),
    "an absurd step": ("step", put(*MOMENTS, 0, "step", value=torch.tensor(1e30))),
    "a step that is text": ("step", put(*MOMENTS, 0, "step", value="2")),
    "the state of no parameter": ("0…7", put(*MOMENTS, 99, value={})),
    "the state of a named parameter": ("0…7", put(*MOMENTS, "weight", value={})),
    "states in a list": ("state", put(*MOMENTS, value=[])),
    "a state that is text": ("state[0]", put(*MOMENTS, 0, value="exp_avg")),
    "no groups": ("param_groups", put(*GROUP[:-1], value=[])),
    "two groups": ("param_groups", lambda c: c["optimizer_states"][0]["param_groups"].append({"params": []})),
    "groups that are none": ("param_groups", put(*GROUP[:-1], value={"params": [0]})),
    "a group of text": ("param_groups[0]", put(*GROUP, value="x")),
    "a group without parameters": ("params", put(*GROUP, "params", value=[])),
    "a group without parameters' key": ("params", drop(*GROUP, "params")),
    "a group of parameters in another order": ("params", lambda c: put(*GROUP, "params", value=[*range(7, -1, -1)])(c)),
    "a parameter twice": ("params", put(*GROUP, "params", value=[0, 0, 1, 2, 3, 4, 5, 6])),
    "a negative learning rate": ("lr", put(*GROUP, "lr", value=-1.0)),
    "an infinite learning rate": ("lr", put(*GROUP, "lr", value=float("inf"))),
    "a learning rate of text": ("lr", put(*GROUP, "lr", value="0.1")),
    "a learning rate of many": ("lr", put(*GROUP, "lr", value=[0.1, 0.2])),
    "a learning rate that is a tensor": ("lr", put(*GROUP, "lr", value=torch.zeros(3))),
    "no learning rate": ("lr", drop(*GROUP, "lr")),
    "one beta": ("betas", put(*GROUP, "betas", value=(0.9,))),
    "a beta above 1": ("betas", put(*GROUP, "betas", value=(0.9, 1.5))),
    "betas of text": ("betas", put(*GROUP, "betas", value="09")),
    "amsgrad": ("amsgrad", put(*GROUP, "amsgrad", value=True)),
    "capturable": ("capturable", put(*GROUP, "capturable", value=True)),
    "differentiable": ("differentiable", put(*GROUP, "differentiable", value="yes")),
    "no fused kernel": ("fused", put(*GROUP, "fused", value=[])),
    "a foreign setting": ("momentum", put(*GROUP, "momentum", value=0.5)),
    "no optimizers": ("optimizer_states", put("optimizer_states", value=[])),
    "two optimizers": ("optimizer_states", lambda c: c["optimizer_states"].append(c["optimizer_states"][0])),
    "an optimizer without state": ("optimizer_states", drop(*MOMENTS)),
    "an optimizer of text": ("optimizer_states", put("optimizer_states", 0, value="Adam")),
    "no schedulers": ("lr_schedulers", put("lr_schedulers", value=[])),
    "schedulers missing": ("lr_schedulers", drop("lr_schedulers")),
    "a scheduler whose method is text": ("lr_schedulers", put("lr_schedulers", 0, "step", value="x")),
    "a scheduler without its step": ("lr_schedulers", drop("lr_schedulers", 0, "last_epoch")),
    "a scheduler of text": ("lr_schedulers", put("lr_schedulers", 0, value="StepLR")),
    "rates of another number": ("base_lrs", put("lr_schedulers", 0, "base_lrs", value=[])),
    "rates of text": ("base_lrs", put("lr_schedulers", 0, "base_lrs", value=["0.1"])),
    "an absurd epoch of a scheduler": ("last_epoch", put("lr_schedulers", 0, "last_epoch", value=10**30)),
    "a scheduler's epoch of text": ("last_epoch", put("lr_schedulers", 0, "last_epoch", value="1")),
    "no cursor": ("in the data", drop("Digits")),
    "a cursor of text": ("Digits", put("Digits", value="start")),
    "a position of text": ("Digits.position", put("Digits", "position", value="1")),
    "a negative position": ("Digits.position", put("Digits", "position", value=-1)),
    "a position behind the end": ("Digits.position", put("Digits", "position", value=10**9)),
    "an absurd epoch": ("Digits.epoch", put("Digits", "epoch", value=10**30)),
    "a fraction of an epoch": ("Digits.epoch", put("Digits", "epoch", value=0.5)),
    "a cursor without position": ("Digits", drop("Digits", "position")),
    "a cursor with a method": ("Digits", put("Digits", "setup", value="x")),
    "batches of no image": ("Digits", put("Digits", "global_batch", value=0)),
    "absurd batches": ("batch_progress", put(*BATCHES, "total", "ready", value=10**30)),
    "negative batches": ("batch_progress", put(*BATCHES, "current", "completed", value=-5)),
    "batches of text": ("batch_progress", put(*BATCHES, "current", "ready", value="2")),
    "batches that are true": ("batch_progress", put(*BATCHES, "current", "ready", value=2.5)),
    "batches with a method": ("batch_progress", put(*BATCHES, "current", "reset", value="x")),
    "no batches": ("batch_progress", drop(*BATCHES, "total")),
    "a last batch of text": ("how far", put(*BATCHES, "is_last_batch", value="x")),
    "no epochs": ("how far", drop(*FIT, "epoch_progress")),
    "epochs of text": ("how far", put(*FIT, "epoch_progress", "current", "processed", value="1")),
    "absurd epochs": ("epoch_progress", put(*FIT, "epoch_progress", "total", "ready", value=2**60)),
    "a foreign loop": ("fit_loop", put(*FIT, "other", value={})),
    "no validation": ("fit_loop", drop(*FIT, "epoch_loop.val_loop.batch_progress")),
    "steps of no number": ("loops", put(*FIT, "epoch_loop.state_dict", "_batches_that_stepped", value=None)),
    "no loops": ("how far", put("loops", value={})),
    "a count of steps of text": ("Steps", put("callbacks", "Steps", "batches", value="x")),
    "a negative count of steps": ("Steps", put("callbacks", "Steps", "in_epoch", value=-1)),
    "an absurd count of steps": ("Steps", put("callbacks", "Steps", "batches", value=10**30)),
    "steps without a count": ("Steps", drop("callbacks", "Steps", "in_epoch")),
    "no steps": ("Steps", drop("callbacks", "Steps")),
    "a curve behind its step": ("curve", put(CURVE, "logged_step", value=10**6)),
    "a curve with a name twice": ("curve", curve(["a", "a"], [1.0, 1.0, 1.0])),
    "a curve of other lengths": ("curve", curve(["a"], [1.0, 2.0], [1.0])),
    "a curve of text": ("curve", curve("ab", [1.0, 1.0, 1.0])),
    "a curve of negative counts": ("curve", curve(["a"], [1.0, -1.0])),
    "scores of text": ("BestAndLast", scores(best_model_score="low", current_score=None)),
    "scores with a method": ("BestAndLast", scores(best_model_score=None, current_score=None, setup="x")),
    "no score": ("BestAndLast", scores(current_score=None)),
    "a score for each": ("BestAndLast", scores(best_model_score=torch.zeros(9), current_score=None)),
    "a layout that is text": ("Dashboard", put("callbacks", "Dashboard", value={"written": "x"})),
    "an end that is text": ("ended", put("ended", value="no")),
    "threads of text with a line": ("who wrote it", put("encdec", "threads", value="1\nencdec: fine")),
    "averages of other weights": ("current_model_state", put("current_model_state", value={"a": torch.zeros(1)})),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(run: Path) -> tuple[pl.Trainer, Paradigm, Digits]:
    """What goes on with that run."""
    quiet.install()
    trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[BestAndLast(), Dashboard()])
    return trainer, encdec.load(run / "checkpoints" / "last.ckpt"), Digits()


def test_a_state_that_does_not_fit_is_a_sentence(
    changed: Callable[[Change], Path], trained: tuple[pl.Trainer, Paradigm, Digits]
) -> None:
    def check(path: Path) -> None:
        training_state.check(read_checkpoint(path), path, *trained, TrainerFn.FITTING)

    check(changed(lambda state: None))
    for name, (words, change) in WRONG.items():
        path = changed(change)
        sentence = refused(lambda path=path: check(path))  # type: ignore[misc]
        assert words in sentence, (name, sentence)
        assert str(path) in sentence


@pytest.mark.parametrize("call", ["ckpt_path", "resume"])
@pytest.mark.parametrize("name", [*WRONG][::9])
def test_no_command_goes_on_with_a_state_that_does_not_fit(
    name: str, call: str, changed: Callable[[Change], Path], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, change = WRONG[name]
    path, config = changed(change), run / "config.yaml"
    before = {file: file.read_bytes() for file in (path, config)}
    args = [f"--ckpt_path={path}", "--name=new"] if call == "ckpt_path" else [f"--resume={run}"]
    err = refused_by_cli(["fit", *args, "--trainer.max_epochs=2"], capsys)
    assert words in err
    assert str(path) in err
    assert {file: file.read_bytes() for file in before} == before
    assert not (run.parent.parent / "new").exists(), "no empty run"


def test_the_state_of_a_run_fits(changed: Callable[[Change], Path], run: Path) -> None:
    path = changed(lambda state: None)
    before = contents(path)["global_step"]
    main(["fit", f"--ckpt_path={path}", "--trainer.max_epochs=2", "--name=fits", *ON_CPU])
    assert contents(Path("lightning_logs/fits/version_0/checkpoints/last.ckpt"))["global_step"] == 2 * before


@pytest.mark.parametrize(
    ("command", "loop"), [("validate", "validate_loop"), ("test", "test_loop"), ("predict", "predict_loop")]
)
def test_the_loop_that_measures_is_compared_too(
    command: str, loop: str, changed: Callable[[Change], Path], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in (10**30, "2"):
        path = changed(put("loops", loop, "batch_progress", "current", "ready", value=value))
        assert f"loops.{loop}.batch_progress" in refused_by_cli([command, f"--ckpt_path={path}"], capsys)
    path = changed(drop("loops", loop))
    assert loop in refused_by_cli([command, f"--ckpt_path={path}"], capsys)


OPTIMIZERS: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (optim.ASGD, {}), (optim.Adadelta, {}), (optim.Adafactor, {}), (optim.Adagrad, {}), (optim.Adam, {}),
    (optim.Adam, {"amsgrad": True}), (optim.AdamW, {"foreach": True}), (optim.Adamax, {}), (optim.NAdam, {}),
    (optim.RAdam, {}), (optim.RMSprop, {"momentum": 0.5, "centered": True}), (optim.Rprop, {}),
    (optim.SGD, {"lr": 0.1}), (optim.SGD, {"lr": 0.1, "momentum": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "settings"), OPTIMIZERS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_what_every_optimizer_remembers_is_known(cls: type[Optimizer], settings: dict[str, Any]) -> None:
    def made() -> Optimizer:
        return cls([{"params": [torch.ones(5, 3), torch.ones(4)]}, {"params": [torch.ones(2, 3, 4, 5)]}], **settings)

    stepped = made()
    for _ in range(2):
        for group in stepped.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.full_like(parameter, 0.1)
        stepped.step()
    good = copy.deepcopy(stepped.state_dict())
    check_optimizers([good], [made()])
    check_optimizers([made().state_dict()], [made()])  # before the first step
    for number, remembered in good["state"].items():
        for key, value in remembered.items():
            wrong = [torch.zeros(7), "text"] if value is not None else ["text", torch.zeros(7)]
            for other in wrong:
                bad = copy.deepcopy(good)
                bad["state"][number][key] = other
                with pytest.raises(MismatchError, match=rf"state\[{number}\]\.{key} "):
                    check_optimizers([bad], [made()])


def test_a_table_of_latents_of_a_negative_number_of_steps_is_refused(
    cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--model=AutoDecoder", "--model.code_steps=2", *SMALL[4:])
    path = Path("lightning_logs/autodecoder/version_0/checkpoints/last.ckpt")
    state = contents(path)
    state["state_dict"]["table.steps"][3] = -1
    torch.save(state, path)
    assert "table.steps" in refused_by_cli(["fit", f"--ckpt_path={path}", "--trainer.max_epochs=2"], capsys)


def test_a_schedule_of_other_settings_is_a_sentence(
    changed: Callable[[Change], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"step_size": 0, "gamma": float("nan")}.items():
        path = changed(put("lr_schedulers", 0, name, value=value))
        err = refused_by_cli(["fit", "--resume", str(path.parent.parent), "--trainer.max_epochs=2"], capsys)
        assert f"lr_schedulers[0].{name} is " in err


def test_a_resumed_run_says_that_its_digits_may_differ(
    changed: Callable[[Change], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Checkpoints of 0.1 say whether part of encdec was compiled, which nothing is any more."""
    flags = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=1", "--floors.enabled=false", *ON_CPU]
    path = changed(put("encdec", "kernels", value="compiled"))
    main(["fit", f"--ckpt_path={path}", "--name=older", *flags])
    assert "digits" not in capsys.readouterr().err
    path = changed(put("encdec", "threads", value=77))
    main(["fit", f"--ckpt_path={path}", "--name=threads", *flags])
    assert "instead of 77: the last digits may differ" in capsys.readouterr().err

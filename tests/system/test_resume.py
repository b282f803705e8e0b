"""A run that is killed and started again with `--resume` ends as one that was not."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from encdec.runs.folders import RunFolder
from tests import killing
from tests.conftest import ROOT
from tests.small_data import write_pictures

BASE = ("--trainer.max_epochs=4", "--trainer.log_every_n_steps=3", "--images.every_n_epochs=2", "--data.batch_size=60",
        "--checkpoint.seconds_between=0")  # fmt: skip
"""22 steps in each of 4 epochs on the digits, with a validation of one batch and both checkpoints after each."""
SCHEDULER = ("--config=configs/vae.yaml", "--model.lr_scheduler")
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
CASES: dict[str, tuple[tuple[str, ...], str, int]] = {
    # every paradigm, in the middle of things; one without a monitor writes four checkpoints, the others up to eight
    **{
        name: ((f"--config=configs/{name}.yaml",), moment, call)
        for name, (moment, call) in zip(
            CONFIGS,
            [("a step", 50), ("a validation", 2), ("a checkpoint's writing", 4), ("a checkpoint's replacement", 4),
             ("a step", 23), ("a step", 88), ("the end of a validation", 3),
             ("after a checkpoint's replacement", 4)] * 4,
            strict=False,
        )
    },
    "codes": (("--config=configs/vae_noenc.yaml", "--model.latents=fixed"), "a step", 47),
    **{f"annealing, {moment}": (("--config=configs/vae.yaml", "--model.warm_up=3"), moment, call) for moment, call in
       (("a step", 50), ("a checkpoint's replacement", 6), ("the end of a validation", 3))},
    "K": (("--config=configs/vae_noenc.yaml", "--model.num_prior_samples=8"), "a step", 30),
    # every in-memory data module
    **{name: (("--config=configs/vae.yaml", f"--data={name}", "--data.batch_size=9"), "a step", 11)
       for name in ("MNIST", "FashionMNIST", "CIFAR10")},
    "ImageFolder": (("--config=configs/vae.yaml", "--data=ImageFolder", "--data.path=data/pictures",
                     "--data.batch_size=4"), "a step", 8),
    # ways to draw the training images
    "class_balanced": (("--config=configs/autodecoder.yaml", "--data.class_balanced=true"), "a step", 50),
    "horizontal_flips": (("--config=configs/ae.yaml", "--data.horizontal_flips=true"), "a step", 59),
    "all of them, in whole batches": (
        ("--config=configs/vae.yaml", "--data.class_balanced=true", "--data.horizontal_flips=true",
         "--data.drop_last=true", "--trainer.accumulate_grad_batches=4"), "a step", 51),
    # ways to train
    "accumulation": (("--config=configs/vae.yaml", "--trainer.accumulate_grad_batches=4",
                      "--trainer.gradient_clip_val=1"), "a step", 59),
    "bf16": (("--config=configs/vae.yaml", "--trainer.precision=bf16-mixed"), "a step", 59),
    "double": (("--config=configs/vae.yaml", "--trainer.precision=64-true"), "a validation", 2),
    "within a validation": (("--config=configs/vae.yaml", "--data.val_fraction=0.4"), "a validation", 8),
    "StepLR": ((*SCHEDULER, "StepLR", "--model.lr_scheduler.step_size=1", "--model.lr_scheduler.gamma=0.5"),
               "a step", 70),
    "OneCycleLR": ((*SCHEDULER, "OneCycleLR", "--model.lr_scheduler.max_lr=0.01",
                    "--model.lr_scheduler.total_steps=88"), "a step", 40),
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
    "stopped early": (("--config=configs/vae.yaml", "--trainer.callbacks+=EarlyStopping",
                       "--trainer.callbacks.monitor=val/kl", "--trainer.callbacks.mode=max",
                       "--trainer.callbacks.patience=1"), "a step", 40),
    # moments
    "before the first checkpoint": (("--config=configs/vae.yaml",), "a step", 10),
    "in the first checkpoint": (("--config=configs/vae.yaml",), "a checkpoint's writing", 1),
    "between best and last": (("--config=configs/vae.yaml",), "a checkpoint's writing", 4),
    "after the last checkpoint": (("--config=configs/vae.yaml",), "the report", 1),
}  # fmt: skip


FEW = ("vae", "assignment", "autodecoder", "gan", "flow_matching")
"""One of each kind of paradigm: one is killed in five seconds, but all of them in two minutes."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in CONFIGS and name not in FEW)) for name in CASES],
)
def test_a_killed_run_ends_like_one_that_was_not(name: str, project: Path) -> None:
    args, moment, call = CASES[name]
    command = ("fit", *args[:1], *BASE, *args[1:], "--resume")
    code, output = killing.run(project, *command, "--name=killed", moment=moment, call=call)
    assert code == -signal.SIGKILL, output
    code, output = killing.run(project, *command, "--name=killed")
    assert code == 0, output
    killed = killing.left(project / "lightning_logs/killed/version_0")
    assert killing.differences(killing.whole(*command), killed) == []
    assert len(list((project / "lightning_logs/killed").iterdir())) == 1, "it goes on in the same folder"


@pytest.mark.parametrize(("moment", "call"), [("a step", 80), ("a checkpoint's writing", 6)])
def test_a_run_goes_on_from_the_best_where_the_last_is_older(moment: str, call: int, project: Path) -> None:
    """With an hour between, `last.ckpt` is written after the first validation and at the end."""
    command = ("fit", "--config=configs/vae.yaml", *BASE, "--checkpoint.seconds_between=3600", "--resume")
    code, output = killing.run(project, *command, "--name=killed", moment=moment, call=call)
    assert code == -signal.SIGKILL, output
    steps = {
        name: torch.load(f"lightning_logs/killed/version_0/checkpoints/{name}.ckpt", weights_only=True)["global_step"]
        for name in ("best", "last")
    }
    assert steps == {"best": 66 if moment == "a step" else 88, "last": 22}
    code, output = killing.run(project, *command, "--name=killed")
    assert code == 0, output
    assert f"from step {steps['best']}" in output
    killed = killing.left(project / "lightning_logs/killed/version_0")
    assert killing.differences(killing.whole(*command), killed) == []


STOPS: dict[str, tuple[str, int, int, int]] = {
    "SIGTERM in a step": ("a step", 30, signal.SIGTERM, 143),
    "Ctrl-C in the last step of an epoch": ("a step", 44, signal.SIGINT, 130),
    "SIGTERM in a validation": ("a validation", 2, signal.SIGTERM, 143),
    "Ctrl-C in a checkpoint's writing": ("a checkpoint's writing", 3, signal.SIGINT, 130),
    "SIGTERM in the first step": ("a step", 1, signal.SIGTERM, 143),
}


@pytest.mark.parametrize("name", STOPS)
@pytest.mark.parametrize(
    "flags",
    [(), ("--trainer.accumulate_grad_batches=4",), ("--checkpoint.seconds_between=1000",)],
    ids=["", "accumulating", "few checkpoints"],
)
def test_a_run_that_is_told_to_stop_saves_at_once_and_ends_like_one_that_was_not(
    name: str, flags: tuple[str, ...], project: Path
) -> None:
    moment, call, number, expected = STOPS[name]
    command = ("fit", "--config=configs/vae.yaml", *BASE, *flags, "--resume")
    code, output = killing.run(project, *command, "--name=stopped", moment=moment, call=call, number=number)
    assert code == expected, output
    assert "encdec fit --resume lightning_logs/stopped/version_0" in output
    assert "Traceback" not in output
    saved = torch.load("lightning_logs/stopped/version_0/checkpoints/last.ckpt", weights_only=True)
    if moment == "a step" and not flags:
        assert saved["global_step"] == call, "the step in which the signal came is made, and saved"
    code, output = killing.run(project, "fit", "--resume=lightning_logs/stopped/version_0")
    assert code == 0, output
    stopped = killing.left(project / "lightning_logs/stopped/version_0")
    assert killing.differences(killing.whole(*command), stopped) == []


@pytest.mark.parametrize("calls", [(30, 14), (44, 1), (30, 3, 11, 22)], ids=str)
def test_a_run_that_is_stopped_again_and_again_ends_like_one_that_was_not(
    calls: tuple[int, ...], project: Path
) -> None:
    """Within an epoch and between two, in either order; each resumed training counts its steps from one."""
    command = ("fit", "--config=configs/vae.yaml", *BASE, "--resume")
    for call in calls:
        code, output = killing.run(
            project, *command, "--name=stopped", moment="a step", call=call, number=signal.SIGTERM
        )
        assert code == 143, output
    saved = torch.load("lightning_logs/stopped/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == sum(calls)
    code, output = killing.run(project, *command, "--name=stopped")
    assert code == 0, output
    stopped = killing.left(project / "lightning_logs/stopped/version_0")
    assert killing.differences(killing.whole(*command), stopped) == []


def test_a_finished_run_is_left_as_it_is_and_can_be_made_longer(project: Path) -> None:
    command = ("fit", "--config=configs/vae.yaml", *BASE, "--images.every_n_epochs=1", "--resume")
    assert killing.run(project, *command, "--name=whole")[0] == 0
    shorter = (*command, "--name=longer", "--trainer.max_epochs=2")
    assert killing.run(project, *shorter)[0] == 0
    folder = project / "lightning_logs/longer/version_0"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, output = killing.run(project, *shorter)
    assert code == 0
    assert "is finished: it has made its 44 steps" in output
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    code, output = killing.run(project, *command, "--name=longer")
    assert code == 0
    assert "changed: trainer.max_epochs is 4 instead of 2" in output
    whole, longer = (killing.left(project / f"lightning_logs/{name}/version_0") for name in ("whole", "longer"))
    # where a training ends, its curve has a point, and it ended once before
    assert [
        name for name in killing.differences(whole, longer) if not name.startswith(("train/", "lr-", "images_per"))
    ] == []


def test_another_model_seed_or_data_is_another_run_and_no_flag_means_a_new_one(project: Path) -> None:
    command = ("fit", "--config=configs/vae.yaml", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
    for flags in (
        (),
        ("--resume", "--model.beta=2"),
        ("--resume", "--seed_everything=1"),
        ("--resume", "--data=MNIST"),
    ):
        code, output = killing.run(project, *command, *flags)
        assert code == 0, output
    assert sorted(path.name for path in (project / "lightning_logs/vae").iterdir()) == [
        f"version_{i}" for i in range(4)
    ]
    assert "no run in lightning_logs/vae has these settings: a new one begins" in output
    code, output = killing.run(project, *command, "--resume", "--model.beta=2")
    assert "lightning_logs/vae/version_1 is finished" in output
    assert killing.run(project, *command)[0] == 0
    assert (project / "lightning_logs/vae/version_4").is_dir()


def test_a_run_that_was_moved_goes_on_where_it_is(project: Path) -> None:
    command = ("fit", "--config=configs/vae.yaml", *BASE)
    code, output = killing.run(project, *command, "--name=moved", moment="a step", call=50)
    assert code == -signal.SIGKILL, output
    (project / "elsewhere").mkdir()
    (project / "lightning_logs/moved/version_0").rename(project / "elsewhere/mine")
    code, output = killing.run(project, "fit", "--resume=elsewhere/mine")
    assert code == 0, output
    assert killing.differences(killing.whole(*command), killing.left(project / "elsewhere/mine")) == []
    assert not list((project / "lightning_logs/moved").iterdir())


def test_a_checkpoint_begins_a_new_run_and_leaves_its_own_alone(project: Path) -> None:
    command = ("fit", "--config=configs/vae.yaml", *BASE)
    assert killing.run(project, *command, "--trainer.max_epochs=2")[0] == 0
    old = project / "lightning_logs/vae/version_0"
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    code, output = killing.run(project, *command, f"--ckpt_path={old}/checkpoints/last.ckpt")
    assert code == 0, output
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before
    new = killing.left(project / "lightning_logs/vae/version_1")
    assert new["last.ckpt global_step"] == 88
    assert [step for step, _ in new["val/loss"]] == [66, 88]
    assert "images/mean_image" in new
    code, output = killing.run(project, *command, f"--ckpt_path={old}/checkpoints/last.ckpt", "--model.optimizer.lr=1")
    assert code == 2
    assert "was made with another optimizer: model.optimizer.init_args.lr is 1.0 instead of 0.01" in output


def test_jobs_that_begin_at_the_same_time_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as jobs:
        folders = list(jobs.map(lambda _: RunFolder(tmp_path / "vae").path, range(40)))
    assert len(set(folders)) == 40


def test_other_data_or_batches_within_an_epoch_are_refused_in_training_only(project: Path) -> None:
    command = ("fit", "--config=configs/vae.yaml", "--trainer.max_epochs=2", "--data=ImageFolder",
               "--data.path=pictures", "--data.size=8", "--data.batch_size=4")  # fmt: skip
    write_pictures(project / "pictures")
    code, output = killing.run(project, *command, "--name=run", moment="a step", call=3, number=signal.SIGTERM)
    assert code == 143, output
    last = "--ckpt_path=lightning_logs/run/version_0/checkpoints/last.ckpt"
    code, output = killing.run(project, *command, last, "--data.batch_size=5")
    assert code == 1
    assert "saved within an epoch, with 4 images in each batch of all processes, but now there are 5" in output
    assert killing.run(project, "validate", *command[1:], last, "--data.batch_size=5")[0] == 0
    for path in list((project / "pictures/cats").glob("*.png"))[:3]:
        path.unlink()
    code, output = killing.run(project, *command, "--name=run", "--resume")
    assert code == 1
    assert "images to train on, but there were" in output


def test_a_run_with_its_checkpoints_elsewhere_says_how_to_go_on_and_does(project: Path) -> None:
    command = ("fit", "--config=configs/vae.yaml", *BASE, "--checkpoint.dirpath=elsewhere")
    code, output = killing.run(project, *command, moment="a step", call=30, number=signal.SIGTERM)
    assert code == 143, output
    assert "encdec fit --resume lightning_logs/vae/version_0" in output
    code, output = killing.run(project, "fit", "--resume=lightning_logs/vae/version_0")
    assert code == 0, output
    assert "resumes lightning_logs/vae/version_0 from step 30" in output
    assert torch.load("elsewhere/last.ckpt", weights_only=True)["global_step"] == 88
    code, output = killing.run(project, *command)
    assert code == 1
    assert "holds the checkpoints of another run" in output

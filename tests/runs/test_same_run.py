"""What is the same run, and what is another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs.measuring import (
    BEST,
    MODEL,
    PICTURES,
    RUN,
    Call,
    edit,
    refused,
    without_record,
    write_pictures,
)

# ---------------------------------------------------------------------- what is the same run

EDITS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "beta": (
        lambda config: config["model"]["init_args"].update(beta=4.0),
        "model.init_args.beta is 4.0 instead of 1.0",
    ),
    "observation": (
        lambda config: config["model"]["init_args"].update(observation={"class_path": "Gaussian"}),
        "model.init_args.observation.class_path is 'encdec.objectives.observations.Gaussian'",
    ),
    "a setting that was deleted": (
        lambda config: config["model"]["init_args"].pop("latent_dim"),
        "model.init_args.latent_dim is 32 instead of 2",
    ),
    "seed": (lambda config: config.update(seed_everything=3), "seed_everything is 3 instead of 0"),
    "batch size": (lambda config: config["data"]["init_args"].update(batch_size=50), "batch_size is 50 instead of 128"),
    "split": (lambda config: config["data"]["init_args"].update(split_seed=9), "split_seed is 9 instead of 0"),
    "data": (lambda config: config.update(data={"class_path": "MNIST"}), "MNIST' instead of 'encdec.data.Digits'"),
    "optimizer": (
        lambda config: config["model"]["init_args"]["optimizer"]["init_args"].update(lr=0.5),
        "model.init_args.optimizer.init_args.lr is 0.5 instead of 0.001",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_run_whose_config_was_edited_is_not_resumed(name: str, place: Callable[[str], Path], call: Call) -> None:
    place("digits")
    change, words = EDITS[name]
    edit(change)
    err = refused(call("fit", f"--resume={RUN}", "--trainer.max_epochs=2"), 2)
    assert words in err
    assert "config.yaml" in err
    without_record()
    assert words in refused(call("fit", f"--resume={RUN}", "--trainer.max_epochs=2"), 2), "as in version 0.1"


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--model.beta=4", "model.init_args.beta is 4.0 instead of 1.0"),
        ("--data.batch_size=50", "data.init_args.batch_size is 50 instead of 128"),
        ("--seed_everything=3", "seed_everything is 3 instead of 0"),
    ],
)
def test_a_run_is_not_resumed_with_flags_that_make_it_another(
    flag: str, words: str, place: Callable[[str], Path], call: Call
) -> None:
    place("digits")
    assert words in refused(call("fit", f"--resume={RUN}", flag), 2)
    code, err = call("fit", *MODEL, "--resume", flag)
    assert code == 0
    assert f"a new one begins. (version_0: {words}.)" in err
    assert Path("lightning_logs/vae/version_1").is_dir()


def test_what_changes_no_result_is_the_same_run(place: Callable[[str], Path], call: Call) -> None:
    project = place("pictures")
    (project / "pictures").rename(project / "elsewhere")
    moved = (*MODEL, *PICTURES, "--data.path=elsewhere", "--data.num_workers=0", "--trainer.max_epochs=3")
    code, err = call("fit", *moved, "--resume")
    assert code == 0, err
    assert "resumes lightning_logs/vae/version_0" in err
    assert "data.init_args.path is 'elsewhere' instead of 'pictures'" in err
    code, err = call("fit", f"--resume={RUN}", "--data.max_memory_gb=0", "--trainer.max_epochs=5")
    assert code == 0, err
    assert "data.init_args.max_memory_gb is 0.0 instead of 4.0" in err
    assert call("test", f"--ckpt_path={BEST}") == (0, "")
    assert [path.name for path in Path("lightning_logs/vae").iterdir()] == ["version_0"]


def test_other_images_in_another_place_are_another_run(place: Callable[[str], Path], call: Call) -> None:
    project = place("pictures")
    write_pictures(project / "others", *range(100, 130))
    others = ("--data.path=others", "--trainer.max_epochs=2")
    assert "but not the same ones" in refused(call("fit", f"--resume={RUN}", *others))
    code, err = call("fit", *MODEL, *PICTURES, *others, "--resume")
    assert code == 0, err
    assert "a new one begins" in err
    # each goes on with its own, though the other one is newer or older
    for path, version in (("pictures", 0), ("others", 1), ("pictures", 0)):
        (project / path).rename(project / "moved")
        code, err = call("fit", *MODEL, *PICTURES, "--data.path=moved", "--trainer.max_epochs=3", "--resume")
        assert code == 0, err
        assert f"lightning_logs/vae/version_{version}" in err
        (project / "moved").rename(project / path)
    assert len(list(Path("lightning_logs/vae").iterdir())) == 2

"""What is measured is the model of the checkpoint, and what is said or refused where the settings are another's."""

from collections.abc import Callable
from pathlib import Path

import pytest

from encdec.cli import main
from tests.runs.measuring import (
    BEST,
    PICTURES,
    Call,
    edit,
    refused,
    write_pictures,
)

# ---------------------------------------------------------------------- what is measured is the checkpoint's model


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model.beta=100"], "model.init_args.beta is 100.0 instead of 1.0"),
        (
            ["--model.observation=Gaussian"],
            "model.init_args.observation.class_path is 'encdec.objectives.observations.Gaussian'",
        ),
        (["--model.encoder=ConvEncoder"], "model.init_args.encoder.class_path is 'encdec.networks.ConvEncoder'"),
        (["--model.latent_dim=3"], "model.init_args.latent_dim is 3 instead of 2"),
    ],
)
def test_a_checkpoint_is_measured_as_the_model_that_it_holds(
    command: str, flags: list[str], words: str, place: Callable[[str], Path], call: Call
) -> None:
    place("digits")
    err = refused(call(command, f"--ckpt_path={BEST}", *flags))
    assert words in err
    assert "does not fit the model" in err
    assert call(command, f"--ckpt_path={BEST}", "--model.beta=1") == (0, ""), "what agrees may be given"


def test_an_edited_config_beside_a_checkpoint_is_another_model(place: Callable[[str], Path], call: Call) -> None:
    place("digits")
    edit(lambda config: config["model"]["init_args"].update(beta=7.0))
    assert "beta is 7.0 instead of 1.0" in refused(call("validate", f"--ckpt_path={BEST}"))


def test_the_optimizer_does_not_matter_to_a_trained_model(place: Callable[[str], Path], call: Call) -> None:
    place("digits")
    assert call("validate", f"--ckpt_path={BEST}", "--model.optimizer=SGD", "--model.optimizer.lr=1") == (0, "")


@pytest.mark.parametrize(
    ("command", "flags", "words"),
    [
        ("validate", ["--seed_everything=5"], "seed_everything is 5 instead of 0"),
        ("test", ["--data.split_seed=99"], "data.init_args.split_seed is 99 instead of 0"),
        ("validate", ["--data.batch_size=64"], ""),
        ("test", [*PICTURES], "data.class_path is 'encdec.data.ImageFolder' instead of 'encdec.data.Digits'"),
    ],
)
def test_other_data_or_another_seed_are_said(
    command: str, flags: list[str], words: str, place: Callable[[str], Path], call: Call
) -> None:
    place("digits")
    code, err = call(command, f"--ckpt_path={BEST}", *flags)
    assert code == 0, err
    assert words in err
    assert len(err.splitlines()) == (1 if words else 0), err


def test_an_export_is_compared_too(place: Callable[[str], Path], call: Call) -> None:
    place("digits")
    main(["export", BEST])
    exported = BEST.replace(".ckpt", ".safetensors")
    assert call("validate", f"--ckpt_path={exported}") == (0, "")
    assert "beta is 100.0 instead of 1.0" in refused(call("validate", f"--ckpt_path={exported}", "--model.beta=100"))


def test_an_export_says_that_the_data_have_changed(place: Callable[[str], Path], call: Call) -> None:
    project = place("pictures")
    main(["export", BEST, "away.safetensors"])
    test = ("test", "--ckpt_path=away.safetensors", *PICTURES)
    assert call(*test) == (0, "")
    write_pictures(project / "pictures", *range(100, 120))
    code, err = call(*test)
    assert code == 0, err
    assert "50 images, 20 more than the 30 that there were" in err
    assert "whether it was trained on images of the test split is not known" in err


@pytest.mark.parametrize("flag", ["--data.split_seed=99", "--data.val_fraction=0.5"])
def test_images_that_were_trained_on_are_not_validated_on(flag: str, place: Callable[[str], Path], call: Call) -> None:
    place("digits")
    err = refused(call("validate", f"--ckpt_path={BEST}", flag))
    assert "images of the val split" in err
    assert flag.removeprefix("--data.").replace("=", " is ") in err


def test_a_split_seed_that_also_chooses_the_test_images_is_refused(place: Callable[[str], Path], call: Call) -> None:
    place("pictures")
    for command in ("test", "predict", "validate"):
        err = refused(call(command, f"--ckpt_path={BEST}", "--data.split_seed=99"))
        assert "data.init_args.split_seed is 99 instead of 0, so the splits are others" in err

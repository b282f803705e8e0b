"""What is said where the images are others than those that a model was trained on."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from encdec.data import Digits, ImageFolder
from encdec.data.fingerprints import KEY, PresentData, identity_in
from encdec.types import UserError
from tests.runs.measuring import (
    BEST,
    MODEL,
    PICTURES,
    RUN,
    STREAMED,
    Call,
    refused,
    without_record,
    write_pictures,
)

# ---------------------------------------------------------------------- a folder that has changed


@pytest.mark.parametrize("name", ["pictures", "streamed"])
@pytest.mark.parametrize("more", [range(100, 120), range(100, 103)], ids=["20 more", "3 more"])
def test_a_folder_that_has_grown_is_noticed(name: str, more: range, place: Callable[[str], Path], call: Call) -> None:
    project = place(name)
    assert call("test", f"--ckpt_path={BEST}") == (0, "")
    write_pictures(project / "pictures", *more)
    before = {path: path.read_bytes() for path in Path(RUN).rglob("*") if path.is_file()}
    for command in ("test", "validate", "predict"):
        err = refused(call(command, f"--ckpt_path={BEST}"))
        assert f"{30 + len(more)} images, {len(more)} more than the 30 that there were" in err
        assert f"images of the {'val' if command == 'validate' else 'test'} split" in err
    err = refused(call("fit", f"--resume={RUN}", "--trainer.max_epochs=2"))
    assert f"{len(more)} more than the 30 that there were" in err
    assert f"{len(more)} more than the 30" in refused(call("fit", *MODEL, *PICTURES, "--resume"))
    assert f"{len(more)} more than the 30" in refused(call("fit", f"--ckpt_path={RUN}/checkpoints/last.ckpt"))
    assert {path: path.read_bytes() for path in Path(RUN).rglob("*") if path.is_file()} == before
    assert [path.name for path in Path("lightning_logs/vae").iterdir()] == ["version_0"]


@pytest.mark.parametrize("flags", [(), STREAMED], ids=["in memory", "streamed"])
def test_test_images_that_are_added_to_a_folder_of_their_own_are_measured_and_said(
    flags: tuple[str, ...], project: Path, call: Call
) -> None:
    write_pictures(project / "pictures/train", *range(20))
    write_pictures(project / "pictures/test", *range(20, 26))
    assert call("fit", *MODEL, *PICTURES, *flags) == (0, "")
    assert call("test", f"--ckpt_path={BEST}") == (0, "")
    write_pictures(project / "pictures/test", 77, 78)
    code, err = call("test", f"--ckpt_path={BEST}")
    assert code == 0, err
    assert "28 images, 2 more than the 26 that there were" in err
    assert call("validate", f"--ckpt_path={BEST}") == (0, ""), "these are the same"
    code, err = call("fit", f"--resume={RUN}", "--trainer.max_epochs=2")
    assert code == 0, err
    if not flags:  # by their pixels, wherever they lie
        write_pictures(project / "pictures/test", *range(5))
        assert "of the 13 images of the test split" in refused(call("test", f"--ckpt_path={BEST}"))


def test_images_that_a_data_set_holds_twice_are_no_change(project: Path, call: Call) -> None:
    write_pictures(project / "pictures/train", *range(20))
    write_pictures(project / "pictures/test", *range(6))
    assert call("fit", *MODEL, *PICTURES) == (0, "")
    assert call("test", f"--ckpt_path={BEST}") == (0, "")


def test_checkpoints_of_version_0_1_do_not_say_it(place: Callable[[str], Path], call: Call) -> None:
    project = place("pictures")
    without_record()
    write_pictures(project / "pictures", *range(100, 120))
    for command in ("test", "validate", "predict"):
        assert call(command, f"--ckpt_path={BEST}") == (0, "")
    assert "beta is 100.0" in refused(call("validate", f"--ckpt_path={BEST}", "--model.beta=100"))


def test_a_file_that_has_changed_is_noticed(project: Path, call: Call) -> None:
    data = ("--data=MNIST", "--data.batch_size=9")
    assert call("fit", *MODEL, *data) == (0, "")
    labels = project / "data/MNIST/raw/train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\3")
    code, err = call("validate", f"--ckpt_path={BEST}")
    assert code == 0, err
    assert "80 images as before, but not the same ones" in err
    err = refused(call("fit", f"--resume={RUN}", "--trainer.max_epochs=2"))
    assert "MNIST has 54 images to train on, but there were 54" in err
    assert "but not the same ones" in err


def test_other_data_may_follow_in_a_new_run_which_knows_what_came_before(
    place: Callable[[str], Path], call: Call
) -> None:
    project = place("pictures")
    code, err = call("fit", *MODEL, f"--ckpt_path={RUN}/checkpoints/last.ckpt", "--trainer.max_epochs=2")
    assert code == 0, err
    assert "data.class_path is 'encdec.data.Digits' instead of 'encdec.data.ImageFolder'" in err
    new = "lightning_logs/vae/version_1/checkpoints/last.ckpt"
    assert call("test", f"--ckpt_path={new}") == (0, "")
    held = torch.load(new, weights_only=True)[KEY]["trained_on"]["pixels"]
    trained = {int(number) for number in held}
    data = [Digits(), ImageFolder("pictures", size=8, mode="grey", val_fraction=0.2)]
    for module in data:
        assert {int(number) for number in PresentData(module).identity.trained_on["pixels"]} <= trained
    shutil.copytree(project / "pictures", project / "others/train")
    write_pictures(project / "others/test", *range(30))
    err = refused(call("test", f"--ckpt_path={new}", *PICTURES, "--data.path=others"))
    assert "of the 30 images of the test split" in err


RECORDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "text": lambda held: "all of them",
    "a tensor": lambda held: torch.zeros(1),
    "counts in a tensor": lambda held: {**held, "images": torch.zeros(1)},
    "no class": lambda held: {name: value for name, value in held.items() if name != "class"},
    "a list of images": lambda held: {**held, "trained_on": [1, 2]},
    "numbers that repeat": lambda held: {**held, "trained_on": {"pixels": torch.zeros(1).long().expand(2**40)}},
    "other numbers": lambda held: {**held, "trained_on": {"pixels": torch.zeros(3)}},
    "counts": lambda held: {**held, "images": {"train": 1.5, "val": 1, "test": 1}},
}


@pytest.mark.parametrize("name", RECORDS)
def test_what_a_damaged_checkpoint_says_about_its_data_is_a_sentence(
    name: str, place: Callable[[str], Path], call: Call
) -> None:
    place("digits")
    contents = torch.load(BEST, weights_only=True)
    contents[KEY] = RECORDS[name](contents[KEY])
    torch.save(contents, BEST)
    assert "not a checkpoint of encdec" in refused(call("test", f"--ckpt_path={BEST}"))
    with pytest.raises(UserError, match="about its data"):
        identity_in(contents, BEST)

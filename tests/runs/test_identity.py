"""What is the same run, the same model and the same data, and what is said or refused where it is not."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from encdec.cli import main
from encdec.data import DataModule, Digits, ImageFolder
from encdec.data.fingerprints import KEY, PresentData, identity_in
from encdec.types import UserError
from tests.conftest import new_project
from tests.small_data import write_mnist

SHORT = ("--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.max_epochs=1", "--floors.enabled=false",
         "--trainer.limit_train_batches=1", "--images.every_n_epochs=9",
         "--trainer.enable_progress_bar=false")  # fmt: skip
MODEL = ("--model=VAE", "--model.latent_dim=2", "--model.encoder.hidden=[4]", "--model.decoder.hidden=[4]")
PICTURES = (
    "--data=ImageFolder",
    "--data.path=pictures",
    "--data.size=8",
    "--data.mode=grey",
    "--data.val_fraction=0.2",
)
STREAMED = ("--data.max_memory_gb=0", "--data.num_workers=0")
RUN = "lightning_logs/vae/version_0"
BEST = f"{RUN}/checkpoints/best.ckpt"
ON_CPU = SHORT[:2]
Call = Callable[..., tuple[int, str]]


def write_pictures(folder: Path, *numbers: int) -> None:
    """A picture of 9×9 grey pixels for each number, which is its name and its seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Runs of one step on the digits, on a folder of 30 pictures, and on the same folder read from the disk."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, data in (("digits", ()), ("pictures", PICTURES), ("streamed", (*PICTURES, *STREAMED))):
            folder = new_project(tmp_path_factory.mktemp(name), patch)
            patch.chdir(folder)
            write_pictures(folder / "pictures", *range(30))
            main(["fit", *MODEL, *data, *SHORT])
            found[name] = folder
        yield found


@pytest.fixture
def place(project: Path, trained: dict[str, Path]) -> Callable[[str], Path]:
    """Puts a run and its pictures into the test's own project."""

    def put(name: str) -> Path:
        for part in ("lightning_logs", "pictures"):
            shutil.copytree(trained[name] / part, project / part)
        return project

    return put


@pytest.fixture
def call(project: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line; gives its exit code and what it says on stderr."""

    def run(command: str, *args: str) -> tuple[int, str]:
        capsys.readouterr()
        new = command == "fit" and not any(arg.startswith("--resume=") for arg in args)
        more = [*(SHORT if new else ON_CPU), *(["--evaluation.parts=[]"] if command == "test" else [])]
        try:
            main([command, *more, *args])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, capsys.readouterr().err

    return run


def refused(result: tuple[int, str], code: int = 1) -> str:
    """The one sentence of a refusal."""
    assert result[0] == code, result
    assert len(result[1].splitlines()) == 1, result[1]
    return result[1]


def edit(change: Callable[[dict[str, Any]], None], run: str = RUN) -> None:
    """Change the config that a run has saved."""
    path = Path(run, "config.yaml")
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))


def without_record() -> None:
    """Make a run's checkpoints what encdec 0.1 wrote."""
    for path in Path(RUN, "checkpoints").glob("*.ckpt"):
        contents = torch.load(path, weights_only=True)
        del contents[KEY]
        torch.save(contents, path)


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
    assert "goes on with lightning_logs/vae/version_0" in err
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


# ---------------------------------------------------------------------- a checkpoint without its run


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_a_moved_checkpoint_brings_its_model(
    command: str, ending: str, place: Callable[[str], Path], call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    project = place("digits")
    main(["export", BEST])
    more = {"predict": "--predictions.output_dir=out", "test": "--evaluation.parts=[]", "validate": "--name=measured"}
    for file in (BEST, "moved/away" + ending):
        if file != BEST:
            (project / "moved").mkdir()
            Path(BEST).with_suffix(ending).rename(file)
            shutil.rmtree("lightning_logs")
            assert (
                "give --data NAME; it was trained on Digits" in refused(call(command, f"--ckpt_path={file}"), 2)
                or ending == ".safetensors"
            )
        capsys.readouterr()
        main([command, *ON_CPU, more[command], "--floors.enabled=false", f"--ckpt_path={file}", "--data=Digits"])
        out, err = capsys.readouterr()
        assert err == ""
        figures = [line for line in out.splitlines() if "val/" in line or "test/" in line]
        pictures = {path.name: path.read_bytes() for path in Path("out").glob("*.png")}
        if file == BEST:
            before = figures, pictures
    assert (figures, pictures) == before
    assert figures or pictures


def test_a_moved_checkpoint_keeps_to_its_settings(place: Callable[[str], Path], call: Call) -> None:
    project = place("digits")
    Path(BEST).rename("away.ckpt")
    shutil.rmtree("lightning_logs")
    measure = ("validate", "--ckpt_path=away.ckpt")
    assert "beta is 100.0 instead of 1.0" in refused(call(*measure, "--data=Digits", "--model.beta=100"))
    assert call(*measure, "--data=Digits", "--model.latent_dim=2") == (0, "")
    assert "the data must be named" in refused(call(*measure, "--data.batch_size=9"), 2)
    (project / "data.yaml").write_text("data: {class_path: Digits, init_args: {batch_size: 9}}")
    assert call(*measure, "--config=data.yaml") == (0, "")
    (project / "data.yaml").write_text("data: {init_args: {batch_size: 9}}")
    assert "the data must be named" in refused(call(*measure, "--config=data.yaml"), 2)
    assert "holds a VAE, but the config asks for a AE" in refused(call(*measure, "--data=Digits", "--model=AE"))


def test_a_moved_checkpoint_is_measured_with_its_seed_and_its_plugin(project: Path, call: Call) -> None:
    assert call("fit", "--model=AutoDecoder", "--model.code_steps=1", "--seed_everything=7") == (0, "")
    (project / "lightning_logs/autodecoder/version_0/checkpoints/last.ckpt").rename("away.ckpt")
    shutil.rmtree("lightning_logs")
    assert call("validate", "--ckpt_path=away.ckpt", "--data=Digits") == (0, "")


def test_a_moved_checkpoint_and_a_folder_that_has_grown(place: Callable[[str], Path], call: Call) -> None:
    project = place("pictures")
    Path(BEST).rename("away.ckpt")
    shutil.rmtree("lightning_logs")
    assert call("test", "--ckpt_path=away.ckpt", *PICTURES) == (0, "")
    (project / "pictures").rename("elsewhere")
    assert call("test", "--ckpt_path=away.ckpt", *PICTURES, "--data.path=elsewhere") == (0, "")
    write_pictures(project / "elsewhere", *range(100, 120))
    assert "20 more" in refused(call("test", "--ckpt_path=away.ckpt", *PICTURES, "--data.path=elsewhere"))


@pytest.mark.parametrize("value", ["m.yaml", "./m.yaml", "evil.Evil", {"class_path": "evil.Evil"}])
@pytest.mark.parametrize("name", ["decoder", "observation", "optimizer", "latent_dim", "beta"])
def test_a_moved_checkpoint_names_no_file_and_no_module(
    name: str, value: Any, place: Callable[[str], Path], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = place("digits")
    monkeypatch.syspath_prepend(project)
    (project / "evil.py").write_text("raise SystemExit('evil')")
    (project / "m.yaml").write_text("class_path: evil.Evil")
    contents = torch.load(BEST, weights_only=True)
    contents["hyper_parameters"][name] = value
    torch.save(contents, "away.ckpt")
    assert "away.ckpt" in refused(call("validate", "--ckpt_path=away.ckpt", "--data=Digits"))
    assert "evil" not in sys.modules


def test_a_layer_that_names_no_model_lies_over_the_config_of_the_run(place: Callable[[str], Path], call: Call) -> None:
    project = place("digits")
    (project / "layer.yaml").write_text("data: {init_args: {batch_size: 9}}\nmodel: {init_args: {beta: 1.0}}")
    assert call("validate", f"--ckpt_path={BEST}", "--config=layer.yaml") == (0, "")


# ---------------------------------------------------------------------- fingerprints


def numbers(data: DataModule) -> dict[str, dict[str, str]]:
    """The fingerprints of a data set."""
    return PresentData(data).identity.fingerprints


def test_fingerprints_are_of_images_and_labels(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a/x", *range(5))
    write_pictures(tmp_path / "a/y", *range(5, 10))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    in_memory, streamed = ({"size": 9, "mode": "grey", "max_memory_gb": gigabytes} for gigabytes in (4.0, 0.0))
    first = numbers(ImageFolder(str(tmp_path / "a"), **in_memory))  # type: ignore[arg-type]
    assert first == numbers(ImageFolder(str(tmp_path / "b"), **in_memory)), "wherever they lie"  # type: ignore[arg-type]
    assert set(first) == {"pixels", "names"}
    from_disk = numbers(ImageFolder(str(tmp_path / "b"), num_workers=0, **streamed))  # type: ignore[arg-type]
    assert from_disk == {"names": first["names"]}, "however they are read"
    (tmp_path / "b/x/000.png").rename(tmp_path / "b/y/000.png")
    moved = numbers(ImageFolder(str(tmp_path / "b"), **in_memory))  # type: ignore[arg-type]
    assert all(moved[kind]["train"] != first[kind]["train"] for kind in first), "a picture of another class"


def test_a_fingerprint_takes_a_few_tenths_of_a_second_for_60_000_images(tmp_path: Path) -> None:
    import time

    from encdec.data import MNIST

    write_mnist(tmp_path / "MNIST/raw", train=60_000, test=10_000)
    data = MNIST(str(tmp_path))
    assert data.num_train == 54_000
    began = time.process_time()
    PresentData(data)
    assert time.process_time() - began < 1

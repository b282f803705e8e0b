"""The help of a command: own options first, with the settings of what the call names, and the Trainer's in one line."""

import argparse
import re
from pathlib import Path
from typing import Any

import pytest

from encdec import plugins, private
from encdec.cli import command_line, main, synonyms, trainer_flags
from encdec.paradigms import Paradigm
from tests.cli.test_cli import printed
from tests.conftest import RunCLI, refused, shipped

VAE = ("--model.latent_dim", "--model.beta", "--model.encoder.hidden", "--model.decoder.activation",
       "--model.optimizer.lr", "--model.lr_scheduler", "--data.batch_size")  # fmt: skip


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def shown(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*args])
    assert stop.value.code == 0
    return capsys.readouterr().out


def options(page: str) -> list[str]:
    return re.findall(r"^  --([\w.]+)", page, re.MULTILINE)


@pytest.mark.parametrize(
    "args",
    [("--model", "VAE"), ("--model=VAE",), ("--config", "configs/vae.yaml"), ("-c", "vae.yaml"),
     ("--model.class_path=encdec.paradigms.VAE",), ("--config=configs/ae.yaml", "--model=VAE")],
)  # fmt: skip
def test_it_shows_the_settings_of_the_model_that_a_call_names(
    args: tuple[str, ...], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ((*args, "--help"), ("-h", *args)):
        page = shown(capsys, "fit", *place)
        assert "settings of VAE (--model VAE):" in page
        found = options(page)
        assert [flag for flag in VAE if flag[2:] not in found] == []
        assert page.index("options:") < page.index("settings of VAE") < page.index("settings of Digits")
        assert page.index("settings of floors") < page.index("settings of Lightning's Trainer:")
        assert len(found) == len(set(found))
        assert max(map(len, page.splitlines())) <= 80
        assert len(page.splitlines()) < 200


def test_values_are_those_of_the_call(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("model: {class_path: GLO, init_args: {latent_dim: 5}}\ntrainer.max_epochs: 77\n")
    page = shown(
        capsys, "fit", "--config=mine.yaml", "--data", "MNIST", "--data.batch_size=31", "--name", "x", "--help"
    )
    for words in (r"latent_dim INT .*\n?.*\(5\)", r"trainer.max_epochs INT .*\(77\)", r"settings of MNIST", r"\(31\)"):
        assert re.search(words, page), words


def test_a_run_brings_its_model_to_the_help_of_what_measures_it(
    cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--config=configs/vae.yaml", "--trainer.max_steps=1", "--trainer.limit_val_batches=1",
        "--floors.enabled=false", "--model.beta=3.5")  # fmt: skip
    page = shown(capsys, "test", "--ckpt_path=lightning_logs/vae/version_0/checkpoints/last.ckpt", "--help")
    assert re.search(r"--model.beta NUMBER .*\(3.5\)", page)
    assert page.index("settings of the evaluation") < page.index("settings of VAE")
    assert "--images." not in page


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_it_is_of_the_command_and_leaves_no_option_out(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    parsers: list[Any] = []
    original = command_line.CLI.parse_arguments

    def keep(self: command_line.CLI, parser: Any, args: Any) -> None:
        parsers.append(parser)
        original(self, parser, args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_line.CLI, "parse_arguments", keep)
        found = set(options(shown(capsys, command, "--help")))
    known = {one.dest for one in private.actions(parsers[0]) if one.help != argparse.SUPPRESS} - {"subcommand"}
    known = {key for key in known if not key.endswith(".help")}
    hidden = {f"trainer.{name}" for name in trainer_flags.NOT_HONORED}
    groups = {"checkpoint", "images", "floors", "evaluation", "predictions"}
    own = {key for key in found if not key.startswith("data.")} - {"help"}
    assert own <= known, "all that it shows is there"
    assert {key for key in known - own - hidden if key.partition(".")[0] not in groups} == set()
    without = {"fit": {"evaluation", "predictions"}, "predict": {"checkpoint", "images", "evaluation", "floors"}}
    assert {key.partition(".")[0] for key in own} & without.get(command, {"checkpoint", "images"}) == set()


@pytest.mark.slow
def test_what_it_shows_of_a_model_is_taken(cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugins.load()
    for cls in shipped(Paradigm):
        page = shown(capsys, "fit", f"--model={cls.__name__}", "--help")
        settings = {name for name in options(page) if name.startswith("model.")}
        assert {"model.optimizer.lr", "model.lr_scheduler"} <= settings
        model: Any = printed(cli, capsys, f"--model={cls.__name__}")["model"]
        config = model["init_args"]
        assert {name.split(".")[1] for name in settings} == config.keys() - {
            "seed", "image_shape", "num_classes", "num_train"}  # fmt: skip


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--model", "VEA"], "there is no class 'VEA'; did you mean VAE?"),
        (["--config", "configs/vea.yaml"], "can't be read (No such file or directory); did you mean configs/vae.yaml?"),
        (["--config", "broken.yaml", "--model=AE"], "broken.yaml can't be read"),
        (["--config", "list.yaml"], "list.yaml can't be read (it holds no settings by their names)"),
        (["--config", "configs"], "configs can't be read (Is a directory)"),
        (["--config"], "can't be read"),
        (["--model"], ""),
        (["--epochs", "3"], ""),
    ],
)
def test_what_is_wrong_with_a_call_keeps_nobody_from_the_help(
    args: list[str], said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "broken.yaml").write_text("model: {class_path: VAE\n")
    (project / "list.yaml").write_text("- model\n")
    with pytest.raises(SystemExit) as stop:
        main(["fit", *args, "--help"])
    out, err = capsys.readouterr()
    assert stop.value.code == 0
    assert "settings of Lightning's Trainer:" in out
    assert said in err
    assert len(err.splitlines()) == bool(said)


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--epochs", "--trainer.max_epochs"),
        ("--max_epochs", "--trainer.max_epochs"),
        ("--trainer.epochs", "--trainer.max_epochs"),
        ("--num-epochs", "--trainer.max_epochs"),
        ("--lr", "--model.optimizer.lr"),
        ("--learning_rate", "--model.optimizer.lr"),
        ("--batch_size", "--data.batch_size"),
        ("--batch-size", "--data.batch_size"),
        ("--latent_dim", "--model.latent_dim"),
        ("--z_dim", "--model.latent_dim"),
        ("--gpus", "--trainer.devices"),
        ("--devices", "--trainer.devices"),
        ("--cuda", "--trainer.accelerator gpu"),
        ("--seed", "--seed_everything"),
        ("--data_dir", "--data.data_dir"),
        ("--dataset", "--data"),
        ("--output_dir", "--trainer.default_root_dir"),
        ("--beta", "--model.beta"),
        ("--precision", "--trainer.precision"),
        ("--modell", "--model"),
        ("--latent_dimm", "--model.latent_dim"),
    ],
)
def test_what_an_option_is_called_elsewhere_is_understood(
    flag: str, meant: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, "fit", "--model=VAE", f"{flag}=3").endswith(
        f"There is no option {flag}; did you mean {meant}?\n"
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{model: VAE, epochs: 3}", "A config has no key 'epochs'; did you mean trainer.max_epochs?"),
        ("{model: VAE, trainer: {epochs: 3}}", "trainer has no setting 'epochs'; did you mean trainer.max_epochs?"),
        ("{model: {class_path: VAE, init_args: {lr: 3}}}", "VAE has no setting 'lr'; did you mean model.optimizer.lr?"),
        ("{model: VAE, seed: 3}", "A config has no key 'seed'; did you mean seed_everything?"),
    ],
)
def test_so_is_a_key_of_a_config(config: str, said: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(config)
    assert said in refused(capsys, "fit", "--config=mine.yaml")


def test_every_synonym_means_one_option_that_there_is(cli: RunCLI, capsys: pytest.CaptureFixture[str]) -> None:
    pages = "".join(
        shown(capsys, command, f"--data={data}", "--model=VAE", f"--model.decoder={network}", "--help")
        for command, data, network in (("fit", "ImageFolder", "ConvDecoder"), ("test", "MNIST", "MLPDecoder"))
    )
    known = set(options(pages))
    names = [name for names in synonyms.TABLE.values() for name in names]
    assert len(names) == len(set(names))
    assert [option for option in synonyms.TABLE if option.partition(" ")[0] not in known] == []
    assert known & set(names) == set(), "an option of this name is no synonym"

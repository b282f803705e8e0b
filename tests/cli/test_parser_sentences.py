"""The parser's refusals are sentences that name key and value, whatever its own words are."""

import random
import re
from pathlib import Path

import pytest

from encdec.cli import errors, main
from tests.conftest import refused

VAE = ["fit", "--config=configs/vae.yaml"]
INTERNALS = re.compile(
    r"Union subtypes|Subtypes|Parser key|given class_path|<class|typing\.|Namespace|dot import|subclass spec|"
    r"either not accessible|Given value type|jsonargparse|NoneType|Traceback"
)
SENTENCES: dict[str, tuple[list[str], str]] = {
    "a number for a class": (["--model.optimizer=3"], "optimizer: '3' is not valid; expected the name of an Optimizer"),
    "a number for a network": (["--model.encoder=3"], "encoder: '3' is not valid; expected the name of an Encoder"),
    "a number for a scheduler": (["--model.lr_scheduler=3"], "lr_scheduler: '3' is not valid"),
    "a number for a callback": (["--trainer.callbacks=3"], "'3' is not valid; expected a list of names of a Callback"),
    "a number in a list of callbacks": (["--trainer.callbacks=[3]"], "trainer.callbacks: '[3]' is not valid"),
    "null in a list of callbacks": (["--trainer.callbacks=[null]"], "trainer.callbacks: '[None]' is not valid"),
    "an unknown callback in a list": (["--trainer.callbacks=[EarlyStopin]"], "did you mean EarlyStopping?"),
    "an unknown callback as a class": (["--trainer.callbacks=[{class_path: EarlyStopin}]"],
                                       "there is no class 'EarlyStopin'; did you mean EarlyStopping?"),
    "an unknown setting of a callback": (["--trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitr: a}}]"],
                                         "did you mean monitor?"),
    "a wrong value of a callback": (
        ["--trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitor: a, patience: x}}]"],
        "patience: 'x' is not valid; expected int"),
    "a setting that a callback needs": (["--trainer.callbacks=EarlyStopping"], "'monitor' is missing: Early"),
    "a number for a logger": (["--trainer.logger=3"], "'3' is not valid; expected the name of a Logger"),
    "an unknown logger among two": (["--trainer.logger=[CSVLogger, Nope]"], "there is no class 'Nope'; known are CSV"),
    "text for a list of numbers": (["--model.encoder.hidden=x"], "hidden: 'x' is not valid; expected a list"),
    "text in a list of numbers": (["--model.encoder.hidden=[x,1]"], "hidden: 'x' is not valid; expected int"),
    "one number for two": (["--model.optimizer.betas=[0.9]"], "'[0.9]' is not valid; expected a list of 2 values"),
    "a wrong value in a class": (["--model.encoder={class_path: MLPEncoder, init_args: {hidden: x}}"], "hidden: 'x'"),
    "a class of a missing plugin": (["--model={class_path: encdec_plugins.gone.Gone}"],
                                    "there is no class 'encdec_plugins.gone.Gone': the plugin plugins/gone.py, which "
                                    "defines it, is missing"),
    "a callback of a missing plugin": (["--trainer.callbacks={class_path: encdec_plugins.gone.Gone}"],
                                       "trainer.callbacks: there is no class 'encdec_plugins.gone.Gone'"),
    "a network of a missing plugin": (["--model.encoder={class_path: encdec_plugins.gone.Gone}"],
                                      "the plugin plugins/gone.py, which defines it, is missing"),
    "a class that a plugin does not have": (["--model=encdec_plugins.autodecoder.AutoEncoder"],
                                            "the plugin plugins/autodecoder.py has none of this name"),
    "a class of a missing package": (["--model=no.such.Model"], "there is no class 'no.such.Model'"),
    "a class with settings": (["--model={class_path: Nope, init_args: {beta: 3}}"], "there is no class 'Nope'; known"),
    "a class of another kind": (["--model=lightning.pytorch.callbacks.EarlyStopping"], "model: "),
    "an abstract class": (["--model=Paradigm"], "model: "),
    "several settings that are missing": (["--model.lr_scheduler=CyclicLR"], "'base_lr' and 'max_lr' are missing"),
    "a strategy's setting": (["--trainer.strategy={class_path: DDPStrategy, init_args: {start_method: 3}}"],
                             "start_method: '3' is not valid; expected one of 'popen'"),
    "a number of plugins": (["--trainer.plugins=3"], "trainer.plugins: '3' is not valid; expected the name of a"),
    "a name that is a list": (["--evaluation.parts=3"], "evaluation.parts: '3' is not valid; expected a list of"),
}  # fmt: skip


def refused_in_plain_words(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    err = refused(capsys, *args)
    assert not INTERNALS.search(err), err
    return err


@pytest.mark.parametrize("name", SENTENCES)
def test_a_refusal_is_a_sentence(name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args, expected = SENTENCES[name]
    assert expected in refused_in_plain_words(capsys, *VAE, *args)


@pytest.mark.parametrize(("file", "asked"), [("mine.py", "Mine"), ("mine.py", "encdec_plugins.mine.Mine")])
def test_a_plugin_that_can_not_be_imported_is_named_where_its_class_is_asked_for(
    file: str, asked: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "plugins").unlink()
    (project / "plugins").mkdir()
    (project / "plugins" / file).write_text("import nothing_of_this_name\n\n\nclass Mine(object):\n    pass\n")
    with pytest.raises(SystemExit) as stop:
        main(["fit", f"--model={asked}"])
    assert stop.value.code == 2
    said, error = capsys.readouterr().err.strip().splitlines()
    assert "nothing_of_this_name" in said
    assert f"there is no class '{asked}': the plugin plugins/mine.py, which defines it, can't be imported" in error


KEYS = ("model", "data", "model.beta", "model.latent_dim", "model.encoder", "model.decoder.hidden", "model.optimizer",
        "model.optimizer.lr", "model.optimizer.betas", "model.lr_scheduler", "model.observation", "trainer",
        "trainer.callbacks", "trainer.logger", "trainer.strategy", "trainer.plugins", "trainer.max_epochs",
        "trainer.max_time", "trainer.precision", "trainer.devices", "trainer.profiler", "trainer.accelerator",
        "images", "images.num_images", "checkpoint.mode", "checkpoint.monitor", "evaluation.parts", "seed_everything",
        "compile", "name", "data.batch_size", "data.val_fraction")  # fmt: skip
VALUES = ("3.5.1", "[[]]", "[3, x]", "{a: b}", "{3: 4}", "{class_path: 3}", "{class_path: Nope}", "{class_path: [x]}",
          "{class_path: VAE, init_args: {x: {y: [1]}}}", "{init_args: {x: 3}}", "[{class_path: Nope}, 3]", "[null]",
          "{class_path: os.system}", "{class_path: collections.OrderedDict, init_args: {a: 1}}", "no.such.module.Name",
          "torch.nn.Linear", "[{init_args: {}}]", "..", "a b", "{class_path: '', init_args: {}}",
          "!!x y", "é\u0000")  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_no_wrong_value_shows_the_parsers_words(seed: int, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is refused is refused in one line; what is taken ends before anything is computed."""
    generator = random.Random(seed)
    pairs = [(key, value) for key in KEYS for value in VALUES]
    for key, value in generator.sample(pairs, 40):
        with pytest.raises(SystemExit) as stop:
            main([*VAE, f"--{key}={value}", "--trainer.max_epochs=0"])  # refused in any case
        err = capsys.readouterr().err
        assert stop.value.code == 2, (key, value, err)
        assert not INTERNALS.search(err), (key, value, err)
        assert len(err.strip().splitlines()) == 1, (key, value, err)
        assert "ENCDEC_DEBUG" not in err, (key, value, err)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Parser key \"a.b\":\n  Something typing.Any of <class 'int'>", "a.b is not valid."),
        ("Namespace(x=3) of jsonargparse", "A setting is not valid."),
        ("Parser key \"a\":\n  Expected a <class 'float'>. Got value: x", "a: 'x' is not valid; expected float."),
        ("plain words", "plain words"),
    ],
)
def test_words_that_nobody_foresaw_end_as_a_sentence(message: str, expected: str) -> None:
    assert errors.sentence(message, []) == expected

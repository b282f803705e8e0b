"""Plugins: loading, naming, faults, and the recipe of plugins/README.md followed to the letter."""

import importlib
import re
from pathlib import Path

import pytest
import torch

import encdec
from encdec import plugins
from encdec.networks import Decoder
from encdec.paradigms import LatentVariable, Paradigm
from encdec.testing import check_datamodule, check_paradigm
from tests import killing
from tests.conftest import ROOT, RunCLI, encdec_in

DECODER = """
from torch import Tensor, nn
from encdec.networks import Decoder

class {name}(Decoder):
    def __init__(self, in_features, image_shape):
        super().__init__(in_features, image_shape)
        self.layer = nn.Linear(in_features, image_shape[0] * image_shape[1] * image_shape[2])

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z).unflatten(1, self.image_shape)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of plugins. Their modules stay imported, so each test uses names of its own."""
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def test_a_file_adds_a_class(folder: Path) -> None:
    (folder / "linear.py").write_text(DECODER.format(name="LinearDecoder"))
    assert plugins.load(folder) == []
    assert "LinearDecoder" in [cls.__name__ for cls in plugins.subclasses(Decoder)]


EVERYTHING = (
    DECODER.format(name="TiltedDecoder")
    + """
import lightning.pytorch as pl
import torch
from encdec.data import DataModule, InMemoryImages
from encdec.paradigms import Paradigm
from encdec.types import Conditioning, Losses

class Stripes(DataModule):
    def load(self):
        rows = torch.arange(40)[:, None, None, None] * torch.ones(1, 1, 6, 6)
        images = InMemoryImages((rows * 6).to(torch.uint8), torch.zeros(40, dtype=torch.int64))
        return images, images

class Constant(Paradigm):
    conditioning = Conditioning.NONE

    noise_dim = 2

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.decoder = TiltedDecoder(2, self.image_shape)

    def losses(self, batch):
        logits = self.decoder(torch.zeros(len(batch.x), 2))
        return Losses((logits.sigmoid() - batch.x).square().flatten(1).sum(1), logits=logits)

    def generate(self, noise, y):
        return self.decoder(noise).sigmoid()

class Announce(pl.Callback):
    def on_train_start(self, trainer, pl_module):
        print("announced")
"""
)


def test_all_four_kinds_go_by_short_names_in_flags_configs_and_checkpoints(
    cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "plugins").unlink()
    (project / "plugins").mkdir()
    (project / "plugins" / "everything.py").write_text(EVERYTHING)
    (project / "mine.yaml").write_text(
        "model: {class_path: Constant}\ndata: {class_path: Stripes, init_args: {batch_size: 8}}\n"
        "trainer: {max_epochs: 1, callbacks: [{class_path: Announce}]}\n"
    )
    cli("fit", "--config", "mine.yaml")
    cli("fit", "--model=VAE", "--model.decoder=TiltedDecoder", "--data=Stripes", "--trainer.callbacks+=Announce",
        "--trainer.max_epochs=1")  # fmt: skip
    assert capsys.readouterr().out.count("announced") == 2
    for name in ("constant", "vae"):
        checkpoint = f"lightning_logs/{name}/version_0/checkpoints/last.ckpt"
        cli("test", "--ckpt_path", checkpoint, "--evaluation.parts=[reconstruction]", "--evaluation.num_images=9")
        assert encdec.load(checkpoint).sample(torch.zeros(3).long()).shape == (3, 1, 6, 6)


def test_a_plugin_that_fails_to_import_is_named_and_the_others_load(folder: Path) -> None:
    (folder / "a_broken.py").write_text("import a_module_that_is_not_there\n")
    (folder / "b_syntax.py").write_text("def f(:\n")
    (folder / "c_good.py").write_text(DECODER.format(name="GoodDecoder"))
    problems = plugins.load(folder)
    assert len(problems) == 2
    assert "a_broken.py" in problems[0]
    assert "No module named 'a_module_that_is_not_there'" in problems[0]
    assert "b_syntax.py" in problems[1]
    assert "GoodDecoder" in [cls.__name__ for cls in plugins.subclasses(Decoder)]


def test_two_classes_of_one_name_are_refused_with_both_places(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "clash.py").write_text(DECODER.format(name="MLPDecoder"))
    result = encdec_in(tmp_path, "fit", "--model", "VAE")
    assert result.returncode == 1
    assert re.search(r"Two classes are named MLPDecoder, in \S+mlp\.py and in \S+clash\.py: rename", result.stderr)
    assert len(result.stderr.strip().splitlines()) == 1


def test_an_installed_package_adds_a_class_by_its_entry_point(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "packaged_decoder.py").write_text(DECODER.format(name="PackagedDecoder"))
    info = folder / "packaged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: packaged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[encdec.plugins]\nmine = packaged_decoder\n")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    assert plugins.load(folder / "nothing here") == []
    assert "PackagedDecoder" in [cls.__name__ for cls in plugins.subclasses(Decoder)]


def test_the_command_line_says_what_is_wrong_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "broken.py").write_text("raise RuntimeError('on purpose')\n")
    quick = ["--trainer.fast_dev_run=1", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    result = encdec_in(tmp_path, "fit", "--model", "VAE", *quick)
    assert result.returncode == 0, result.stderr
    assert "plugins/broken.py can't be imported and is left out: RuntimeError: on purpose" in result.stderr
    assert "Traceback" not in result.stderr


def test_nothing_in_the_package_knows_of_the_shipped_plugin() -> None:
    for path in (ROOT / "encdec").rglob("*.py"):
        text = path.read_text().lower().replace("-", "").replace("_", "")
        # what 0.1 wrote of it is read in one file
        assert path.name == "version_0_1.py" or "autodecoder" not in text, path


def test_the_recipe(cli: RunCLI, project: Path, folder: Path) -> None:
    """Writes the files that plugins/README.md shows, and runs its commands and its test."""
    recipe = (ROOT / "plugins" / "README.md").read_text()
    sources = dict(re.findall(r"`plugins/(\w+)\.py`:\n\n```python\n(.*?)```", recipe, re.DOTALL))
    (project / "plugins").unlink()
    (project / "plugins").mkdir()
    for name, source in sources.items():
        (project / "plugins" / f"{name}.py").write_text(source)
    commands = re.findall(r"^python -m encdec (.+)$", recipe, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        cli(*command.split(), *(["--trainer.max_epochs=1"] if command.startswith("fit") else []))
    (test,) = re.findall(r"`tests/test_mine\.py`:\n\n```python\n(.*?)```", recipe, re.DOTALL)
    scope: dict[str, object] = {}
    exec(test, scope)
    checks = [value for key, value in scope.items() if key.startswith("test_")]
    assert checks
    for check in checks:
        check(project)  # type: ignore[operator]
    cli("fit", "--model=VAE", "--data=Bars", "--trainer.max_epochs=1")
    check_datamodule(importlib.import_module("encdec_plugins.bars").Bars())
    for name, shown in {"tiny_gan": "TinyGAN", "moments": "Moments"}.items():
        assert name in sources, "two players, and a loss of the set"
        cli("fit", f"--model={shown}", "--trainer.max_epochs=1")
        check_paradigm(getattr(importlib.import_module(f"encdec_plugins.{name}"), shown), project, latent_dim=4)


@pytest.mark.slow
def test_autodecoder_trains_on_two_processes_like_on_one_and_finds_codes_for_held_out_images(
    cli: RunCLI, project: Path
) -> None:
    """Its table of codes is the same on both; the codes it finds beat those of an untrained search."""
    args = ["--config", "configs/autodecoder.yaml", "--trainer.max_epochs=4", "--images.every_n_epochs=5"]
    # in float32 the last digit of a gradient of about zero decides where Adam's whole step goes
    args.append("--trainer.precision=64-true")
    cli("fit", *args, "--data.batch_size=64", "--name=one")
    code, output = killing.on_two(project, "fit", *args, "--data.batch_size=32", "--name=two")
    assert code == 0, output
    one, two = (encdec.load(f"lightning_logs/{name}/version_0/checkpoints/last.ckpt") for name in ("one", "two"))
    assert isinstance(one, LatentVariable)
    for key, value in one.state_dict().items():
        torch.testing.assert_close(value, two.state_dict()[key], rtol=1e-3, atol=1e-3, msg=key)
    assert one.state_dict()["table.steps"].tolist() == [4] * 1294, "each row moves once in an epoch"
    batch = next(iter(encdec.data.Digits(batch_size=50).test_dataloader()))
    found = one.measured_losses(batch).terms["bce"].mean()
    from_zero = torch.nn.functional.binary_cross_entropy_with_logits(
        one.decode(torch.zeros(50, one.latent_dim), batch.y), batch.x, reduction="none"
    )
    assert found < 0.9 * from_zero.sum((1, 2, 3)).mean()


def test_every_shipped_paradigm_has_a_config() -> None:
    configs = "\n".join(path.read_text() for path in (ROOT / "configs").glob("*.yaml"))
    plugins.load(ROOT / "plugins")
    names = {cls.__name__ for cls in plugins.subclasses(Paradigm) if cls.__module__.startswith("encdec.")}
    for name in names | {"AutoDecoder", "DGD", "EnergyScore", "GAN", "GLO", "GON", "IMLE", "VGON"}:
        assert f"class_path: {name}\n" in configs


def test_a_run_that_goes_on_says_which_plugins_code_has_changed(project: Path) -> None:
    (project / "plugins").unlink()
    (project / "plugins").mkdir()
    file = project / "plugins" / "changing.py"
    source = "from encdec.networks import MLPDecoder\n\n\nclass ChangingDecoder(MLPDecoder):\n    width = 1\n"
    file.write_text(source)
    call = ("fit", "--model=VAE", "--model.latent_dim=2", "--model.decoder=ChangingDecoder", "--data=Digits",
            "--floors.enabled=false", "--resume")  # fmt: skip
    changed = f"encdec: {Path('plugins', 'changing.py')} has changed since this checkpoint was written: "
    contents = (source, f"# the same code\n{source}", source.replace("width = 1", "width = 2"))
    for epochs, content in enumerate(contents, 1):
        file.write_text(content)
        code, output = killing.run(project, *call, f"--trainer.max_epochs={epochs}")
        assert code == 0, output
        assert (changed in output) == (epochs == 3)

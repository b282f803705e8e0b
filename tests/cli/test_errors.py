"""What is wrong is said in one sentence, with exit code 2 for a wrong call and 1 for a fault; nothing is lost by it."""

import os
import signal
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import killing
from tests.conftest import RunCLI, refused

VAE = ("fit", "--config", "configs/vae.yaml")
FOLDER = [*VAE, "--data=ImageFolder", "--data.path=pictures", "--data.size=8"]
SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=3", "--trainer.limit_val_batches=1")

WRONG_CALLS: dict[str, tuple[list[str], str]] = {
    "unknown command": (["fti"], "'fti' is not a command; did you mean fit?"),
    "no model": (["fit"], "--model is missing"),
    "unknown model": (["fit", "--model", "VEA"], "there is no class 'VEA'; did you mean VAE?"),
    "unknown data": (["fit", "--model", "VAE", "--data", "MNSIT"], "did you mean MNIST?"),
    "unknown network": ([*VAE, "--model.encoder", "MLPEncode"], "did you mean MLPEncoder?"),
    "unknown optimizer": ([*VAE, "--model.optimizer", "Adm"], "there is no class 'Adm'; did you mean Adam?"),
    "unknown model option": ([*VAE, "--model.betta=3"], "VAE has no setting 'betta'; did you mean beta?"),
    "unknown network option": ([*VAE, "--model.encoder.hiden=3"], "did you mean hidden?"),
    "abbreviated option": ([*VAE, "--trainer.max_epoch=3"], "did you mean --trainer.max_epochs?"),
    "wrong type": ([*VAE, "--model.beta=x"], "beta: 'x' is not valid; expected float."),
    "wrong choice": ([*VAE, "--trainer.precision=7"], "trainer.precision: '7' is not valid"),
    "value out of range": ([*VAE, "--model.latent_dim=0"], "VAE: latent_dim is 0"),
    "data out of range": ([*VAE, "--data.batch_size=0"], "Digits: batch_size is 0"),
    "layer of no size": ([*VAE, "--model.decoder.hidden=[-3]"], "MLPDecoder: hidden is [-3]"),
    "seed out of range": ([*VAE, "--seed_everything=-1"], "seed_everything is -1"),
    "unknown strategy": ([*VAE, "--trainer.strategy=dpp"], "invalid strategy name"),
    "ambiguous class": ([*VAE, "--model.lr_scheduler=ReduceLROnPlateau"], "lightning.pytorch.cli.ReduceLROnPlateau"),
    "network too deep": ([*VAE, "--model.encoder=ConvEncoder", "--model.encoder.channels=[1,1,1,1,1]"], "at most 3"),
    "missing config": (["fit", "--config", "configs/vea.yaml"], "did you mean configs/vae.yaml?"),
    "config with a typo": (["fit", "--config", "typo.yaml"], "no key 'modle'; did you mean model?"),
    "config that is no YAML": (["fit", "--config", "broken.yaml"], "broken.yaml"),
    "random seed": ([*VAE, "--seed_everything=true"], "give a number"),
    "test without a checkpoint": (["test", "--config", "configs/vae.yaml"], "give --ckpt_path FILE"),
    "missing checkpoint": (["test", "--config", "configs/vae.yaml", "--ckpt_path=no.ckpt"], "no checkpoint 'no.ckpt'"),
    "missing checkpoint alone": (["test", "--ckpt_path=no.ckpt"], "no checkpoint 'no.ckpt'"),
    "option before the command": (["--config", "configs/vae.yaml", "fit"], "--config stands before the command"),
    "a file that stands alone": (["fit", "configs/vae.yaml"], "is it --config configs/vae.yaml?"),
    "an option without a value": ([*VAE, "--model"], "--model needs a value"),
    "a setting of a model without a value": (["fit", "--model=VAE", "--model.latent_dim"],
                                             "--model.latent_dim needs a value"),
    "a setting of a model before another": (["fit", "--model.beta", "--model=VAE"], "--model.beta needs a value"),
    "a setting without its model": (["fit", "--model.beta=3"], "model.beta is set, but nothing names the model"),
    "a setting that the next model lacks": ([*VAE, "--model.beta=3", "--model=AE"], "AE has no setting 'beta'"),
    "a config without a name": (["fit", "--config="], "--config is empty"),
    "a config that is a folder": (["fit", "--config", "configs"], "must be a file, but 'configs' is a folder"),
    "a config that is a list": (["fit", "--config", "list.yaml"], "list.yaml must hold settings by their names"),
    "an empty config": (["fit", "--config", "empty.yaml"], "empty.yaml must hold settings by their names"),
    "a config that is not text": (["fit", "--config", "bytes.yaml"], "bytes.yaml is not a YAML file"),
    "a config that runs code": (["fit", "--config", "code.yaml"], "code.yaml is not a YAML file"),
    "a setting twice": (["fit", "--config", "twice.yaml"], "twice.yaml sets 'beta' twice, in lines 4 and 5: keep one"),
    "a setting without a value": ([*VAE, "--data=ImageFolder"], "--data.path is missing: ImageFolder has no default"),
    "a scheduler's missing setting": ([*VAE, "--model.lr_scheduler=StepLR"], "'step_size' is missing: StepLR has"),
    "a model that is no paradigm": (["fit", "--model=torch.nn.Linear"], "there is no class 'torch.nn.Linear'"),
    "data that are a model": (["fit", "--model=VAE", "--data=VAE"], "data: there is no class 'VAE'; known are "),
    "unknown observation": ([*VAE, "--model.observation=Poisson"], "known are Bernoulli, Gaussian"),
    "unknown callback": ([*VAE, "--trainer.callbacks=Nope"], "trainer.callbacks: there is no class 'Nope'"),
    "unknown accelerator": ([*VAE, "--trainer.accelerator=abc"], "invalid accelerator name"),
    "an accelerator that is not installed": ([*VAE, "--trainer.accelerator=tpu"], "trainer: "),
    "a strategy that forks": ([*VAE, "--trainer.strategy=ddp_fork"], "take ddp"),
    "no devices": ([*VAE, "--trainer.devices=-3"], "trainer: `devices`"),
    "too many devices": ([*VAE, "--trainer.devices=1000"], "trainer.devices is 1000"),
    "fewer nodes than one": ([*VAE, "--trainer.num_nodes=0"], "`num_nodes` must be a positive integer"),
    "epochs that are not whole": ([*VAE, "--trainer.max_epochs=1.5"], "trainer.max_epochs: '1.5' is not valid"),
    "logging never": ([*VAE, "--trainer.log_every_n_steps=0"], "trainer.log_every_n_steps is 0"),
    "accumulating nothing": ([*VAE, "--trainer.accumulate_grad_batches=0"], "accumulate_grad_batches is 0"),
    "validating never": ([*VAE, "--trainer.check_val_every_n_epoch=0"], "check_val_every_n_epoch is 0"),
    "negative clipping": ([*VAE, "--trainer.gradient_clip_val=-1"], "gradient_clip_val is -1"),
    "nothing to train on": ([*VAE, "--trainer.limit_train_batches=0"], "nothing to train on"),
    "a weight that is no number": ([*VAE, "--model.beta=.nan"], "VAE: beta is nan"),
    "a rate that is no number": ([*VAE, "--model.optimizer.lr=abc"], "lr: 'abc' is not valid; expected float."),
    "a standard deviation of 0": ([*VAE, "--model.observation=Gaussian", "--model.observation.sigma=0"],
                                  "sigma is 0.0"),
    "no codes": (["fit", "--model=EncoderlessVAE", "--model.num_prior_samples=0"], "num_prior_samples is 0"),
    "unknown latents": (["fit", "--model=EncoderlessVAE", "--model.latents=fix"],
                        "expected one of 'resampled', 'fixed'"),
    "no validation images": ([*VAE, "--data.val_fraction=0"], "val_fraction is 0"),
    "checkpoints at no time": ([*VAE, "--checkpoint.seconds_between=-1"], "seconds_between is -1.0"),
    "no pictures": ([*VAE, "--images.num_images=0"], "num_images is 0"),
    "a name that is a path": ([*VAE, "--name=../elsewhere"], "must be the name of one folder"),
    "an empty name": ([*VAE, "--name="], "must be the name of one folder"),
    "a run that is none": ([*VAE, "--resume=configs"], "'configs' is not the folder of a run"),
    "a run with other settings": ([*VAE, "--resume", "lightning_logs/vae/version_0"],
                                  "--resume can't go on with lightning_logs/vae/version_0: model."),
    "a run and a checkpoint": ([*VAE, "--resume", "--ckpt_path=no.ckpt"], "give one of them"),
    "a checkpoint's nickname": ([*VAE, "--ckpt_path=last"], "no checkpoint 'last'"),
    "unknown compilation": ([*VAE, "--compile=fast"], "expected one of 'default'"),
    "an unknown part of an evaluation": (["test", "--config", "configs/vae.yaml", "--evaluation.parts=[all]"], "'all'"),
    "an export of nothing": (["export"], "export: the following arguments are required: checkpoint."),
    "an export of a run": (["export", "configs"], "no checkpoint 'configs'"),
    "unknown option of export": (["export", "x.ckpt", "--fil=y"], "export has no option --fil"),
    "unknown option of compare": (["compare", "--metrisc=mse"], "no option --metrisc; did you mean --metrics?"),
}  # fmt: skip


def write_wrong_configs(folder: Path) -> None:
    (folder / "typo.yaml").write_text("modle: {class_path: VAE}\n")
    (folder / "broken.yaml").write_text("model: {class_path: VAE\n")
    (folder / "list.yaml").write_text("- model\n")
    (folder / "empty.yaml").write_text("")
    (folder / "bytes.yaml").write_bytes(bytes(range(256)))
    (folder / "code.yaml").write_text("model: !!python/object/apply:os.system ['touch ran']\n")
    (folder / "twice.yaml").write_text("model:\n  class_path: VAE\n  init_args:\n    beta: 1\n    beta: 2\n")


def write_run(folder: Path) -> dict[Path, bytes]:
    """A run that is there already, and its files."""
    run = folder / "lightning_logs" / "vae" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("model: {class_path: AE}\nseed_everything: 0\n")
    (run / "checkpoints" / "last.ckpt").write_bytes(b"precious")
    (run / "events.out.tfevents.1").write_bytes(b"curves")
    return files(folder)


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (folder / "lightning_logs").rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_a_wrong_call_is_one_sentence_and_exit_code_2(
    name: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wrong_configs(project)
    before = write_run(project)
    args, expected = WRONG_CALLS[name]
    assert expected in refused(capsys, *args)
    assert files(project) == before, "what was there is as it was, and nothing new is there"
    assert not (project / "ran").exists()


def folder_of_pictures(folder: Path) -> None:
    (folder / "pictures" / "a").mkdir(parents=True)
    for i in range(20):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(folder / "pictures" / "a" / f"{i:02}.png")


def a_huge_picture(folder: Path) -> None:
    folder_of_pictures(folder)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    (folder / "pictures" / "a" / "bomb.png").write_bytes(content)


def a_damaged_picture(folder: Path) -> None:
    folder_of_pictures(folder)
    (folder / "pictures" / "a" / "07.png").write_bytes(b"not a picture")


def floats_out_of_range(folder: Path) -> None:
    folder_of_pictures(folder)
    Image.fromarray(np.full((8, 8), 7, np.float32)).save(folder / "pictures" / "a" / "99.tif")


def truncated_images(folder: Path) -> None:
    path = folder / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])


def wild_labels(folder: Path) -> None:
    path = folder / "data" / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    content[8 + 5] = 77
    path.write_bytes(content)


def a_checkpoint_of_nothing(folder: Path) -> None:
    torch.save({"weights": torch.zeros(2)}, folder / "x.ckpt")


def a_checkpoint_with_code(folder: Path) -> None:
    torch.save({"hyper_parameters": {"_class_path": Path("x")}}, folder / "x.ckpt")


def half_a_checkpoint(folder: Path) -> None:
    (folder / "x.ckpt").write_bytes(b"PK\x03\x04 half of a checkpoint")


def a_file_in_the_way(folder: Path) -> None:
    (folder / "taken").write_text("a file")


def a_run_with_a_damaged_checkpoint(folder: Path) -> None:
    run = folder / "lightning_logs" / "vae" / "version_0"
    (run / "config.yaml").write_text("model: {class_path: VAE}\n")


def plugin(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "plugins").unlink()
        (folder / "plugins").mkdir()
        (folder / "plugins" / "mine.py").write_text(text)

    return write


MINE = """\
import torch
from torch import nn
from encdec.networks import MLPEncoder; from encdec.paradigms import Paradigm
from encdec.types import Conditioning, Losses

class Mine(Paradigm):
    conditioning, noise_dim = Conditioning.NONE, 2

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.layer = nn.Linear(2, self.image_shape[1] * self.image_shape[2])

    def generate(self, noise, y):
        return self.layer(noise).reshape(-1, *self.image_shape).sigmoid()

    def losses(self, batch):
        {losses}
"""
PLUGINS = {
    "a plugin that fails": (
        "return Losses(self.nothing)",
        "'Mine' object has no attribute 'nothing' (plugins/mine.py, line 17)",
    ),
    "a plugin without a loss": (
        "return Losses()", "missing 1 required positional argument: 'loss' (plugins/mine.py, line 17)"
    ),
    "a plugin that gives a network the wrong input": (
        "return Losses(MLPEncoder(self.image_shape, 3)(batch.x[:, :, :-1]).sum(1))",
        "shapes cannot be multiplied (128x56 and 64x512) (plugins/mine.py, line 17)",
    ),
}  # fmt: skip
FORESEEN = {
    "logits of another shape": (
        "out = self.layer(torch.randn(len(batch.x), 2)); return Losses(out.square().sum(1), logits=out)",
        "Mine.losses gives logits of shape (128, 64) for images of shape (128, 1, 8, 8), which must be alike",
    ),
    "a loss of another shape": (
        "return Losses(self.layer(torch.randn(len(batch.x), 2)))",
        "Mine.losses gives loss of shape (128, 64) for 128 images, but it must be (128,)",
    ),
    "a loss without a gradient": (
        "return Losses(batch.x.sum((1, 2, 3)))",
        "Mine.losses gives a loss without a gradient, so nothing can be trained",
    ),
    "what version 0.1 asked for": (
        "return {'loss': batch.x.sum((1, 2, 3))}", "Mine.losses gives a dict, but it must give Losses"
    ),
}  # fmt: skip
FAULTS: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    "no folder of pictures": (a_file_in_the_way, FOLDER, "'pictures' is not a folder"),
    "an empty folder": (lambda folder: (folder / "pictures").mkdir(), FOLDER, "has no pictures"),
    "a damaged picture": (a_damaged_picture, FOLDER, "07.png"),
    "a picture that is a bomb": (a_huge_picture, FOLDER, "bomb.png"),
    "floats out of range": (floats_out_of_range, FOLDER, "99.tif"),
    "truncated images": (truncated_images, [*VAE, "--data=MNIST"], "train-images-idx3-ubyte"),
    "labels out of range": (wild_labels, [*VAE, "--data=MNIST"], "77"),
    "a foreign checkpoint": (a_checkpoint_of_nothing, [*VAE, "--ckpt_path=x.ckpt"], "x.ckpt"),
    "a checkpoint with code": (a_checkpoint_with_code, [*VAE, "--ckpt_path=x.ckpt"], "x.ckpt"),
    "a damaged checkpoint": (half_a_checkpoint, [*VAE, "--ckpt_path=x.ckpt"], "x.ckpt"),
    "no evaluations": (a_file_in_the_way, ["compare", "configs"], "configs holds no last.evaluation.json"),
    "a file where runs would be": (a_file_in_the_way, [*VAE, "--trainer.default_root_dir=taken"], "can't be made"),
    "a file where checkpoints would be": (a_file_in_the_way, [*VAE, "--checkpoint.dirpath=taken"], "can't be made"),
    "a loss that explodes": (a_file_in_the_way, [*VAE, "--model.optimizer=SGD", "--model.optimizer.lr=1e30", *SHORT],
                             "at step 2, so the run is stopped"),
    "half precision on a processor": (a_file_in_the_way, [*VAE, "--trainer.precision=16-true", *SHORT], "is stopped"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_sentence_and_exit_code_1(
    name: str, cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, args, expected = FAULTS[name]
    make(project)
    before = write_run(project)
    with pytest.raises(SystemExit) as stop:
        cli(*args)
    err = capsys.readouterr().err
    assert stop.value.code == 1, err
    assert expected in err
    assert len(err.strip().splitlines()) <= 3, err
    assert "Traceback" not in err
    assert before.items() <= files(project).items(), "the run that was there is as it was"
    assert not list(project.rglob("best.ckpt")), "nothing wrong is saved as the best"


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_that_fails_is_one_sentence_and_exit_code_1(name: str, project: Path) -> None:
    losses, expected = PLUGINS[name]
    plugin(MINE.format(losses=losses))(project)
    code, output = killing.run(project, "fit", "--model=Mine", *SHORT, "--trainer.enable_progress_bar=false")
    assert code == 1, output
    (error,) = [line for line in output.splitlines() if line.startswith("encdec: ")]
    assert expected in error
    assert "ENCDEC_DEBUG=1 shows the traceback" in error
    assert "Traceback" not in output


@pytest.mark.parametrize("name", FORESEEN)
def test_what_a_plugin_gives_is_named_with_its_method(name: str, project: Path) -> None:
    losses, expected = FORESEEN[name]
    plugin(MINE.format(losses=losses))(project)
    # in a process of its own: a class whose file is gone is in the way of every later command of this one
    code, output = killing.run(project, "fit", "--model=Mine", *SHORT, "--trainer.enable_progress_bar=false")
    assert code == 1, output
    (error,) = [line for line in output.splitlines() if line.startswith("encdec: ")]
    assert expected in error
    assert "ENCDEC_DEBUG" not in error, "it is foreseen"


def test_a_plugin_that_can_not_be_imported_is_named_and_left_out(project: Path) -> None:
    plugin("class Mine(:\n")(project)
    code, output = killing.run(project, *VAE, *SHORT)
    assert code == 0, output
    assert output.startswith("encdec: Plugin plugins/mine.py can't be imported and is left out: SyntaxError")


def test_a_full_disk_loses_no_checkpoint(project: Path) -> None:
    """Files that may not grow beyond a few blocks, as on a full disk or beyond a quota."""
    command = (*VAE, *SHORT, "--resume", "--images.every_n_epochs=100")
    code, output = killing.run(project, *command)
    assert code == 0, output
    folder = project / "lightning_logs/vae/version_0/checkpoints"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, output = killing.run(project, *command, "--trainer.max_epochs=2", largest_file=200_000)
    assert code == 1, output
    errors = [line for line in output.splitlines() if "error" in line]
    assert len(errors) == 1
    assert "best.ckpt can't be written (File too large); what was there before is still there" in errors[0]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    code, output = killing.run(project, *command, "--trainer.max_epochs=2")
    assert code == 0, output


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_not_be_written_is_named(
    cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "closed").mkdir(mode=0o500)
    with pytest.raises(SystemExit) as stop:
        cli(*VAE, "--trainer.default_root_dir=closed")
    assert stop.value.code == 1
    assert "can't be made (Permission denied)" in capsys.readouterr().err


def test_a_run_that_is_trained_by_another_process_is_left_alone(project: Path) -> None:
    with killing.background(project, *VAE, "--resume", "--trainer.max_epochs=2000"):
        code, output = killing.run(project, *VAE, "--resume", "--trainer.max_epochs=2000")
        assert len(list((project / "lightning_logs/vae/version_0").glob("events*"))) == 1, "not even a log is begun"
    assert code == 1
    assert "Another process is training in lightning_logs/vae/version_0" in output


def test_a_damaged_newest_checkpoint_is_named_and_the_next_best_is_taken(project: Path) -> None:
    command = (*VAE, "--trainer.max_epochs=3", "--resume", "--checkpoint.monitor=val/kl", "--checkpoint.mode=max")
    code, output = killing.run(project, *command)
    assert code == 0, output
    folder = project / "lightning_logs/vae/version_0/checkpoints"
    best, last = (torch.load(folder / f"{name}.ckpt", weights_only=True)["global_step"] for name in ("best", "last"))
    assert best < last
    content = bytearray((folder / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1  # one bit of a weight
    (folder / "last.ckpt").write_bytes(content)
    code, output = killing.run(project, *command)
    assert code == 0, output
    assert "last.ckpt" in output
    assert f"best.ckpt, from step {best}, takes its place" in output
    assert f"from step {best}." in output


def test_ctrl_c_before_the_training_is_no_traceback(project: Path) -> None:
    code, output = killing.run(project, *VAE, moment="loading data", number=signal.SIGINT)
    assert code == 130
    assert "Traceback" not in output
    assert not (project / "lightning_logs").exists()

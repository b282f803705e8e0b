"""`fit --weights FILE` begins with weights alone, says so wherever it matters, and is resumed like any run."""

import hashlib
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import encdec
from encdec.data import Digits
from encdec.data.fingerprints import PresentData
from encdec.paradigms import Paradigm
from encdec.runs.build import build
from encdec.runs.weights import Weights, digest_of
from tests import killing
from tests.conftest import RunCLI, events, refused
from tests.small_data import write_pictures

SHORT = ("--trainer.max_epochs=1", "--images.every_n_epochs=100", "--trainer.log_every_n_steps=3")
SOURCE = "lightning_logs/source/version_0/checkpoints/last.ckpt"
STILL = ("--model.optimizer=SGD", "--model.optimizer.lr=0")
"""An optimizer that changes nothing, so that the weights at the end are those of the beginning."""


def contents(run: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(f"lightning_logs/{run}/checkpoints/last.ckpt", weights_only=True)
    return found


def equal(a: dict[str, Any], b: dict[str, Any], *left_out: str) -> bool:
    names = [name for name in a if not name.startswith(left_out or "nothing")]
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in names)


@pytest.fixture
def source(cli: RunCLI, project: Path) -> Path:
    cli("fit", "--config=configs/vae.yaml", "--name=source", *SHORT)
    return project / SOURCE


def test_the_weights_are_taken_and_nothing_else(source: Path, cli: RunCLI, capfd: pytest.CaptureFixture[str]) -> None:
    encdec.export(source)
    before, digest = contents("source/version_0"), hashlib.sha256(source.read_bytes()).hexdigest()
    cli("fit", "--config=configs/vae.yaml", f"--weights={SOURCE}", *SHORT, *STILL, "--model.beta=2",
        "--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=1", "--seed_everything=1")  # fmt: skip
    said = capfd.readouterr().err.replace("\n", " ")
    assert f"begins with the weights of {SOURCE}, from step 11, which was made otherwise: " in said
    assert "model.init_args.beta is 2.0 instead of 1.0" in said
    assert "seed_everything is 1 instead of 0" in said
    assert "optimizer" not in said
    after = contents("vae/version_0")
    assert equal(before["state_dict"], after["state_dict"])
    assert after["global_step"] == 11, "it counts from 0"
    assert [list(state) for state in after["optimizer_states"]] == [["state", "param_groups"]]
    assert after["history"] == [f"began with the weights of a VAE at step 11 (last.ckpt, SHA-256 {digest})"]
    config = yaml.safe_load(Path("lightning_logs/vae/version_0/config.yaml").read_text())
    assert (config["weights"], config["weights_sha256"]) == (SOURCE, digest)
    # an export holds the same weights
    exported = source.with_suffix(".safetensors")
    cli("fit", "--config=configs/vae.yaml", f"--weights={exported}", *SHORT, *STILL)
    assert equal(before["state_dict"], contents("vae/version_1")["state_dict"])
    # what is measured says where it is from; and the run's config makes the run again
    cli("test", "--ckpt_path=lightning_logs/vae/version_0/checkpoints/last.ckpt", "--evaluation.parts=[reconstruction]",
        "--evaluation.num_images=8", "--evaluation.posterior_steps=2")  # fmt: skip
    report = json.loads(Path("lightning_logs/vae/version_0/checkpoints/last.evaluation.json").read_text())
    assert report["history"] == after["history"]
    cli("fit", "--config=lightning_logs/vae/version_0/config.yaml")
    again = contents("vae/version_2")
    assert equal(after["state_dict"], again["state_dict"])
    # without a model, the file's own run says which; what that began with is not meant
    capfd.readouterr()
    cli("fit", "--weights=lightning_logs/vae/version_0/checkpoints/last.ckpt", "--model.optimizer=Adam")
    assert "otherwise" not in capfd.readouterr().err
    assert len(contents("vae/version_3")["history"]) == 2
    cli("fit", "--ckpt_path=lightning_logs/vae/version_0/checkpoints/last.ckpt", "--trainer.max_epochs=2")
    assert contents("vae/version_4")["global_step"] == 22


def test_a_kill_and_the_same_command_end_like_one_run(source: Path, project: Path) -> None:
    file = project / "kept.ckpt"
    shutil.copy(source, file)
    command = ("fit", "--config=configs/vae.yaml", f"--weights={file}", "--trainer.max_epochs=3", *SHORT[1:],
               "--data.batch_size=60", "--checkpoint.seconds_between=0", "--resume")  # fmt: skip
    for name, call in (("before", 10), ("after", 50)):  # the first checkpoint, which is at step 22
        code, output = killing.run(project, *command, f"--name={name}", moment="a step", call=call)
        assert code == -signal.SIGKILL, output
        code, output = killing.run(project, *command, f"--name={name}")
        assert code == 0, output
        assert ("begins with the weights" in output) == (name == "before"), output
        killed = killing.left(project / f"lightning_logs/{name}/version_0")
        assert killing.differences(killing.whole(*command), killed) == []
        assert len(list((project / f"lightning_logs/{name}").iterdir())) == 1
    # with other weights it is another run, and one from scratch another again
    encdec.export(source, project / "other.safetensors")
    short = (*command[:2], *SHORT, "--data.batch_size=60", "--resume", "--name=after")
    for number, flags in enumerate(((f"--weights={project}/other.safetensors",), ()), 1):
        code, output = killing.run(project, *short, *flags)
        assert code == 0, output
        assert "no run in lightning_logs/after has these settings: a new one begins" in output
        assert (project / f"lightning_logs/after/version_{number}").is_dir()
    # a run that has checkpoints needs the file no more
    file.unlink()
    code, output = killing.run(project, "fit", "--resume=lightning_logs/after/version_0", "--trainer.max_epochs=4")
    assert code == 0, output
    code, output = killing.run(project, *command, "--name=after")
    assert code == 2
    assert "There is no checkpoint" in output


def test_a_file_that_has_changed_before_the_first_checkpoint_is_noticed(source: Path, project: Path) -> None:
    file = project / "kept.ckpt"
    shutil.copy(source, file)
    command = ("fit", "--config=configs/vae.yaml", f"--weights={file}", *SHORT, "--name=mine")
    assert killing.run(project, *command, moment="a step", call=3)[0] == -signal.SIGKILL
    shutil.copy(source.with_name("best.ckpt"), file)
    file.write_bytes(file.read_bytes() if digest_of(file) != digest_of(source) else b"")
    code, output = killing.run(project, "fit", "--resume=lightning_logs/mine/version_0")
    assert code == 1
    assert "is not the file that is asked for" in output or "is no checkpoint" in output
    shutil.copy(source, file)
    code, output = killing.run(project, "fit", "--resume=lightning_logs/mine/version_0")
    assert code == 0, output


# ---------------------------------------------------------------------- what belongs to each training image


def loaded(file: Path, data: Any, **other: Any) -> tuple[Paradigm, str | None]:
    """A model of the kind that is in a file, made for data, and given the weights of the file."""
    held = encdec.load(file)
    settings = {k: v for k, v in held.hparams.items() if not k.startswith("_")}
    sizes = {"image_shape": data.image_shape, "num_classes": data.num_classes, "num_train": data.num_train}
    model = build(type(held), settings | sizes | other)
    return model, Weights.read(file, digest_of(file)).load(model, PresentData(data))


@pytest.mark.parametrize(
    ("config", "table"), [("autodecoder", "table"), ("glo", "table"), ("assignment", "permutation")]
)
def test_latents_of_training_images_are_taken_where_these_are_the_same(
    config: str, table: str, cli: RunCLI, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cli("fit", f"--config=configs/{config}.yaml", "--name=source", *SHORT)
    held = torch.load(SOURCE, weights_only=True)["state_dict"]
    model, left_out = loaded(project / SOURCE, Digits())
    assert left_out is None
    assert equal(held, model.state_dict())
    for data in (Digits(split_seed=1), Digits(val_fraction=0.2)):
        model, left_out = loaded(project / SOURCE, data)
        assert left_out is not None
        assert "are not taken, because the training images are others: " in left_out
        own = model.state_dict()
        assert all(torch.equal(held[name], own[name]) for name in held if not name.startswith(f"{table}."))
        if table == "permutation":
            assert torch.equal(own["permutation.of"], torch.arange(data.num_train))
        else:
            assert not own["table.steps"].any()
    model, left_out = loaded(project / SOURCE, Digits(), seed=1)
    assert (left_out is None) == (table == "table")
    if left_out:
        assert "because the seed that they are drawn by is another" in left_out
        assert torch.equal(model.state_dict()["permutation.of"], torch.arange(model.num_train))
    # and from the command line, on a folder of other pictures of the same shape
    for i in range(40):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8), dtype=np.uint8)).save(project / f"{i}.png")
    cli("fit", f"--config=configs/{config}.yaml", "--name=new", *SHORT, f"--weights={SOURCE}", *STILL,
        "--data=ImageFolder", f"--data.path={project}", "--data.size=8", "--data.mode=grey",
        "--data.labels=none")  # fmt: skip
    said = capfd.readouterr().err.replace("\n", " ")
    assert "are not taken, because the training images are others" in said
    assert "data.class_path is" in said
    found = contents("new/version_0")["state_dict"]
    decoder = {name: weight for name, weight in found.items() if name.startswith("decoder.")}
    assert all(torch.equal(held[name], weight) for name, weight in decoder.items())


# ---------------------------------------------------------------------- what is refused


def test_what_does_not_fit_is_refused_before_the_run_has_a_folder(
    source: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vae, weights = ("fit", "--config=configs/vae.yaml"), f"--weights={SOURCE}"
    damaged = project / "damaged.ckpt"
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 255
    damaged.write_bytes(content)
    (project / "cut.ckpt").write_bytes(source.read_bytes()[:5000])
    (project / "text.ckpt").write_text("no checkpoint")
    write_pictures(project / "other")
    cases: list[tuple[tuple[str, ...], str, int]] = [
        (("fit", "--config=configs/ae.yaml", weights), "holds a VAE, but the config asks for an AE", 1),
        ((*vae, weights, "--model.latent_dim=3"), "does not fit the model that the config describes: ", 1),
        ((*vae, weights, "--model.decoder.hidden=[100]"), "does not fit the model that the config describes: ", 1),
        ((*vae, weights, "--data=ImageFolder", "--data.path=other", "--data.size=9"), "does not fit the model", 1),
        ((*vae, "--weights=damaged.ckpt"), "damaged.ckpt is damaged", 1),
        ((*vae, "--weights=cut.ckpt"), "cut.ckpt is damaged", 1),
        ((*vae, "--weights=text.ckpt"), "text.ckpt is no checkpoint", 1),
        ((*vae, "--weights=gone.ckpt"), "There is no checkpoint 'gone.ckpt'", 2),
        ((*vae, "--weights=https://a.b/c.ckpt"), "is an address, but a checkpoint is read from a file", 2),
        ((*vae, "--weights=configs"), "There is no checkpoint 'configs'", 2),
        ((*vae, "--weights="), "There is no checkpoint ''", 2),
        ((*vae, "--weights", "--resume"), "--weights needs a value", 2),
        ((*vae, "--weights_sha256=00"), "must hold, but none is named: give --weights FILE", 2),
        ((*vae, weights, f"--ckpt_path={SOURCE}"), "give one of them", 2),
        ((*vae, weights, "--weights_sha256=00"), "is not the file that is asked for: its SHA-256 is", 1),
        (("test", f"--ckpt_path={SOURCE}", weights), "--weights is what fit begins with; test takes", 2),
        (("fit", "--weights=cut.ckpt"), "cut.ckpt lies in no run, so its training's settings are not known", 2),
        # half of the images that would be validated are those that the model was trained on
        ((*vae, weights, "--data.split_seed=1"), "images of the val split: ", 1),
    ]
    for args, expected, code in cases:
        assert expected in refused(capsys, *args, code=code)
    assert [path.parent.name for path in project.rglob("version_*")] == ["source"]
    config = project / "mine.yaml"
    config.write_text(f"weights: {SOURCE}\n")
    assert "give one of them, or --weights null" in refused(
        capsys, *vae, "--config=mine.yaml", f"--ckpt_path={SOURCE}", "--trainer.max_epochs=2"
    )


def test_a_longer_schedule_begins_with_the_weights(
    cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a run with OneCycleLR is told when it is to be longer is what then works."""
    cycle = ("--model.lr_scheduler=OneCycleLR", "--model.lr_scheduler.max_lr=0.01")
    vae = ("fit", "--config=configs/vae.yaml", *SHORT, *cycle)
    cli(*vae, "--model.lr_scheduler.total_steps=11", "--name=source")
    run, longer = f"--resume={Path(SOURCE).parents[1]}", "--trainer.max_epochs=2"
    with pytest.raises(SystemExit):
        cli("fit", run, longer)
    said = capsys.readouterr().err
    assert "a run that has begun keeps its schedule, so let it end as it was meant to, and begin a new one" in said
    said = refused(capsys, "fit", run, longer, "--model.lr_scheduler.total_steps=22")
    assert f"or begin a new run with its weights: --weights {SOURCE} and no --resume" in said
    said = refused(capsys, *vae, f"--ckpt_path={SOURCE}", longer, "--model.lr_scheduler.total_steps=22")
    assert f"or take its weights alone: --weights {SOURCE} in place of --ckpt_path" in said
    cli("fit", f"--weights={SOURCE}", longer, "--model.lr_scheduler.total_steps=22", "--name=longer")
    assert contents("longer/version_0")["global_step"] == 22


def test_two_processes_begin_alike(source: Path, cli: RunCLI, project: Path) -> None:
    args = ("fit", "--config=configs/vae.yaml", f"--weights={SOURCE}", *SHORT)
    cli(*args, "--data.batch_size=70", "--name=one")
    code, output = killing.on_two(project, *args, "--data.batch_size=35", "--name=two")
    assert code == 0, output
    assert output.count("begins with the weights of") == 1
    one, two = (events(f"lightning_logs/{name}/version_0") for name in ("one", "two"))
    for tag in one.Tags()["scalars"]:
        if tag.startswith(("val/", "train/")):
            a, b = ([(e.step, e.value) for e in run.Scalars(tag)] for run in (one, two))
            assert np.allclose(a, b, rtol=2e-3, atol=1e-4), tag

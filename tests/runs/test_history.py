"""What a run began from and what changed on its way is remembered, said, and tells runs apart."""

from pathlib import Path

import pytest
import torch
import yaml

from encdec.cli.compare import main as compare
from tests.conftest import RunCLI

MODEL = (
    "--model=VAE", "--model.latent_dim=2", "--model.encoder=MLPEncoder", "--model.encoder.hidden=[4]",
    "--model.decoder=MLPDecoder", "--model.decoder.hidden=[4]", "--images.every_n_epochs=100",
)  # fmt: skip
RUN = "lightning_logs/a/version_0"
LAST = f"{RUN}/checkpoints/last.ckpt"
QUICK = ("--evaluation.parts=[reconstruction]", "--evaluation.posterior_steps=1", "--evaluation.num_images=8")


def history(path: str) -> list[str]:
    found: list[str] = torch.load(path, weights_only=True)["history"]
    return found


def test_an_epoch_stays_as_long_as_it_was(cli: RunCLI, capsys: pytest.CaptureFixture[str]) -> None:
    """A resumed run would fill up the epoch that is over: 22 steps instead of 15."""
    cli("fit", *MODEL, "--name=a", "--trainer.max_epochs=1", "--trainer.limit_train_batches=4")
    before = Path(LAST).read_bytes()
    for flag in ("--trainer.limit_train_batches=11", "--trainer.limit_train_batches=1.0"):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli("fit", "--resume", RUN, "--trainer.max_epochs=2", flag)
        assert stop.value.code == 2
        err = capsys.readouterr().err
        assert "limit_train_batches is" in err
        assert "which changes how long an epoch is" in err
        assert len(err.splitlines()) == 1
    assert Path(LAST).read_bytes() == before
    cli("fit", "--resume", RUN, "--trainer.max_epochs=2")
    assert torch.load(LAST, weights_only=True)["global_step"] == 8


def test_an_edited_setting_of_the_trainer_is_said(cli: RunCLI, capsys: pytest.CaptureFixture[str]) -> None:
    cli("fit", *MODEL, "--name=a", "--trainer.max_epochs=1")
    config = yaml.safe_load(Path(RUN, "config.yaml").read_text())
    config["trainer"]["gradient_clip_val"] = 0.001
    Path(RUN, "config.yaml").write_text(yaml.safe_dump(config))
    capsys.readouterr()
    cli("fit", "--resume", RUN, "--trainer.max_epochs=2")
    assert "trainer.gradient_clip_val is 0.001 instead of None" in capsys.readouterr().err
    assert history(LAST) == ["from step 11 on trainer.gradient_clip_val is 0.001 instead of None"]


def test_a_run_from_a_checkpoint_is_no_seed_of_one_from_nothing(
    cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("fit", *MODEL, "--name=a", "--trainer.max_epochs=1")
    cli("fit", *MODEL, "--name=b", "--ckpt_path", LAST, "--trainer.max_epochs=2")
    cli("fit", *MODEL, "--name=b", "--trainer.max_epochs=2", "--seed_everything=1")
    assert history(LAST) == []
    fine_tuned, fresh = (f"lightning_logs/b/version_{i}/checkpoints/last.ckpt" for i in range(2))
    assert history(fine_tuned) == ["began from the step 11 of a trained VAE"]
    assert history(fresh) == []
    for path in (fine_tuned, fresh):
        cli("test", "--ckpt_path", path, *QUICK)
    capsys.readouterr()
    compare(["--markdown", "--metrics", "mse", "lightning_logs/b"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| b")]
    rows = [line for line in lines if "±" not in line]  # the difference of the two, image by image, has an error
    assert len(rows) == 2, lines
    assert sum("began from the step" in row for row in rows) == 1

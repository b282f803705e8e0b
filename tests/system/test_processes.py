"""Two processes give what one gives."""

from pathlib import Path

import pytest
import torch

from tests import killing
from tests.conftest import RunCLI, encdec_in, events

pytestmark = pytest.mark.slow
MEANS_ONLY = ["--evaluation.parts=[]"]
SHORT = ["--trainer.max_epochs=2", "--trainer.log_every_n_steps=3", "--trainer.accelerator=cpu"]


def scalars(name: str) -> dict[str, list[tuple[int, float]]]:
    run = events(f"lightning_logs/{name}/version_0")
    return {tag: [(e.step, e.value) for e in run.Scalars(tag)] for tag in run.Tags()["scalars"]}


@pytest.mark.parametrize("config", ["ae_zeros", "vae", "vae_noenc"])
def test_two_processes_train_and_measure_like_one(config: str, cli: RunCLI, project: Path) -> None:
    """The same global batches and the same noise, so only rounding differs; 144 validation images, exact means."""
    args = ["--config", f"configs/{config}.yaml", *SHORT]
    if config == "vae_noenc":
        args.append("--model.num_prior_samples=16")
    cli("fit", *args, "--data.batch_size=70", "--name=one")
    args += ["--data.batch_size=35", "--name=two"]
    # once by Lightning, once the way that clusters start it, and once in processes that are there at once
    if config == "vae_noenc":
        code, output = killing.on_two(project, "fit", *args)
    else:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"] if config == "vae" else []
        result = encdec_in(project, "fit", *args, "--trainer.devices=2", launcher=[*torchrun, "-m", "encdec"])
        code, output = result.returncode, result.stdout + result.stderr
    assert code == 0, output
    one, two = scalars("one"), scalars("two")
    for tag in one:
        if tag.startswith(("val/", "train/")):
            assert [step for step, _ in one[tag]] == [step for step, _ in two[tag]], tag
            for (_, a), (_, b) in zip(one[tag], two[tag], strict=True):
                assert a == pytest.approx(b, rel=2e-3, abs=1e-4), tag
    assert "2 processes on cpu" in output
    assert output.count("best (epoch") == 1, "the table is printed once"


def test_two_processes_evaluate_a_split_exactly(cli: RunCLI, project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """359 test images do not divide by 2 or by the batch size; no image is counted twice."""
    cli("fit", "--config", "configs/vae.yaml", *SHORT)
    checkpoint = "lightning_logs/vae/version_0/checkpoints/last.ckpt"
    cli("test", "--ckpt_path", checkpoint, *MEANS_ONLY)
    one = scalars("vae")
    cli("predict", "--ckpt_path", checkpoint)
    folder = project / "lightning_logs/vae/version_0/predictions"
    single = torch.load(folder / "reconstructions.pt", weights_only=True)
    for command, flags in (("test", MEANS_ONLY), ("predict", [])):
        code, output = killing.on_two(project, command, "--ckpt_path", checkpoint, *flags, "--data.batch_size=50")
        assert code == 0, output
    for tag, points in scalars("vae").items():
        if tag.startswith("test/"):
            assert len(points) == len(one[tag]) + 1
            assert points[-1][1] == pytest.approx(one[tag][0][1], rel=1e-5), tag
    both = torch.load(folder / "reconstructions.pt", weights_only=True)
    assert torch.equal(both["index"], single["index"])
    torch.testing.assert_close(both["reconstruction"], single["reconstruction"])
    assert not list(folder.glob(".part*"))

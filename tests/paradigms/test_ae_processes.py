"""What an autoencoder knows of its codes does not depend on how many processes saw them."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from encdec.paradigms import AE
from tests import killing
from tests.conftest import RunCLI

pytestmark = pytest.mark.slow
# Adam moves weights of almost no gradient by its rate, whichever way rounding points: a small one keeps runs together
RUN = ("--config", "configs/ae.yaml", "--model.optimizer.lr=1e-3", "--trainer.max_epochs=2",
       "--images.every_n_epochs=1", "--trainer.callbacks+=tests.paradigms.test_ae_processes.SaveFit")  # fmt: skip


class SaveFit(pl.Callback):
    """Each process writes what its own model knows of the codes, and samples, when its training ends."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write them into the working directory."""
        assert isinstance(pl_module, AE)
        noise = torch.randn(5, pl_module.latent_dim, generator=torch.Generator().manual_seed(0))
        assert pl_module.ex_post is not None
        found = {"z": pl_module.sampled.sample(noise), **pl_module.ex_post.state_dict()}
        torch.save(found, f"fit-{trainer.global_rank}-of-{trainer.world_size}.pt")


def of_last_checkpoint(name: str) -> dict[str, Tensor]:
    path = Path(f"lightning_logs/{name}/version_0/checkpoints/last.ckpt")
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def test_two_processes_fit_the_gaussian_that_one_does(cli: RunCLI, project: Path) -> None:
    """The first process draws samples of it after each epoch, and the others do not; 38 steps, no multiple of 16."""
    cli("fit", *RUN, "--data.batch_size=70", "--name=one")
    code, output = killing.on_two(project, "fit", *RUN, "--data.batch_size=35", "--name=two")
    assert code == 0, output
    one, *both = (torch.load(f"fit-{name}.pt", weights_only=True) for name in ("0-of-1", "0-of-2", "1-of-2"))
    for key, value in both[0].items():
        assert torch.equal(value, both[1][key]), f"the processes disagree about {key}"
    assert one["fitted"] == both[0]["fitted"] == 1294
    for state, prefix in ((both[0], ""), (of_last_checkpoint("two"), "ex_post.")):
        for name in ("mean", "covariance"):
            torch.testing.assert_close(state[prefix + name], one[name], rtol=1e-5, atol=1e-5)
    assert one["covariance"].diagonal().mean() > 0.01, "codes differ by more than the tolerance"

"""CVAE: its terms against torch.distributions, and what the label changes."""

import re
from typing import TYPE_CHECKING

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from encdec import plugins
from encdec.data import Digits
from encdec.paradigms import VAE
from encdec.types import Batch, UserError
from tests.conftest import ROOT, RunCLI

plugins.load(ROOT / "plugins")
if TYPE_CHECKING:
    from plugins.cvae import CVAE
else:
    from encdec_plugins.cvae import CVAE

SHAPE = (1, 8, 8)


@pytest.fixture
def batch() -> Batch:
    first: Batch = next(iter(Digits(batch_size=32).val_dataloader()))
    return first


def made() -> CVAE:
    return CVAE(image_shape=SHAPE, num_classes=10, latent_dim=4, beta=0.5).eval()


def test_the_terms_are_those_of_the_conditional_elbo(batch: Batch) -> None:
    model = made()
    torch.nn.init.normal_(model.shift.weight)
    losses = model.measured_losses(batch)
    model.randomness.restart()
    mean, log_var = (model.encoder(batch.x) + model.shift.weight[batch.y]).chunk(2, 1)
    q = Normal(mean, (log_var / 2).exp())
    z = mean + q.stddev * model.noise(batch.index, 4)
    one_hot = torch.eye(10)[batch.y]
    nll = -Bernoulli(logits=model.decoder(torch.cat([one_hot, z], 1)), validate_args=False).log_prob(batch.x)
    kl = kl_divergence(q, Normal(0, 1)).sum(1)
    torch.testing.assert_close(losses.terms["bce"], nll.sum((1, 2, 3)))
    torch.testing.assert_close(losses.terms["kl"], kl)
    torch.testing.assert_close(losses.loss, nll.sum((1, 2, 3)) + 0.5 * kl)
    torch.testing.assert_close(losses.terms["elbo"], -nll.sum((1, 2, 3)) - kl)


def test_both_networks_read_the_label(batch: Batch) -> None:
    model = made()
    torch.nn.init.normal_(model.shift.weight)
    other = batch._replace(y=(batch.y + 1) % 10)
    assert not torch.equal(model.encode(batch), model.encode(other))
    z = torch.zeros(len(batch.x), 4)
    assert not torch.equal(model.decode(z, batch.y), model.decode(z, other.y))


def test_it_starts_as_an_encoder_of_the_image_alone(batch: Batch) -> None:
    model = made()
    torch.testing.assert_close(model.encode(batch), model.encoder(batch.x).chunk(2, 1)[0])


def test_the_label_saves_nats(cli: RunCLI, capsys: pytest.CaptureFixture[str]) -> None:
    """Told the label, latents need not say it: the KL is smaller than the VAE's, at no worse a loss."""
    found = {}
    for name in ("vae", "cvae"):
        cli("fit", f"--config=configs/{name}.yaml", "--trainer.max_epochs=30", "--images.every_n_epochs=100")
        cli("validate", f"--ckpt_path=lightning_logs/{name}/version_0/checkpoints/last.ckpt")
        text = capsys.readouterr().out
        found[name] = {key: float(re.findall(rf"val/{key}\D+([\d.]+)", text)[-1]) for key in ("kl", "loss")}
    assert found["cvae"]["kl"] < found["vae"]["kl"] - 0.5, found
    assert found["cvae"]["loss"] < found["vae"]["loss"], found


def test_data_without_labels_and_bad_weights_are_refused() -> None:
    with pytest.raises(UserError, match="CVAE reads labels, but these data have none"):
        CVAE(image_shape=SHAPE)
    with pytest.raises(UserError, match="beta is -1"):
        CVAE(image_shape=SHAPE, num_classes=3, beta=-1)
    assert VAE(image_shape=SHAPE).num_classes == 1

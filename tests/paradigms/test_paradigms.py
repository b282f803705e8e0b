"""What is particular to each paradigm."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from encdec.data import Digits
from encdec.networks import Decoder, Encoder, MLPDecoder
from encdec.objectives.losses import bernoulli_nll, gaussian_kl
from encdec.objectives.observations import Gaussian
from encdec.paradigms import AE, VAE, ConditionalDecoder, EncoderlessVAE
from encdec.types import Batch, Conditioning, UserError

SHAPE = (1, 8, 8)


@pytest.fixture
def batch() -> Batch:
    return next(iter(Digits(batch_size=32).val_dataloader()))


def terms(paradigm: Any, batch: Batch) -> dict[str, Tensor]:
    with torch.no_grad():
        result: dict[str, Tensor] = paradigm.losses(batch)
        return result


def test_ae_loss_is_the_squared_error_of_the_reconstruction(batch: Batch) -> None:
    ae = AE(image_shape=SHAPE, latent_dim=3).eval()
    reconstruction = ae.reconstruct(batch)
    assert reconstruction is not None
    expected = ((reconstruction - batch.x) ** 2).sum((1, 2, 3))
    torch.testing.assert_close(terms(ae, batch)["loss"], expected)
    assert ae.conditioning is Conditioning.IMAGE


def test_ae_on_zeros_is_shown_zeros_in_training_and_evaluated_both_ways(batch: Batch) -> None:
    ae = AE(image_shape=SHAPE, latent_dim=3, encoder_input="zeros")
    assert ae.conditioning is Conditioning.NONE
    assert set(terms(ae, batch)) == {"loss", "logits_zeros"}
    evaluated = terms(ae.eval(), batch)
    from_zeros = ae.decoder(ae.encoder(torch.zeros(1, *SHAPE)))
    torch.testing.assert_close(evaluated["logits_zeros"], from_zeros.expand(len(batch.x), -1, -1, -1))
    torch.testing.assert_close(evaluated["logits"], ae.decoder(ae.encoder(batch.x)))
    torch.testing.assert_close(evaluated["loss"], ((from_zeros.sigmoid() - batch.x) ** 2).sum((1, 2, 3)))


@pytest.mark.parametrize(
    "make",
    [AE, partial(AE, encoder_input="zeros"), VAE, ConditionalDecoder, EncoderlessVAE,
     partial(EncoderlessVAE, num_prior_samples=8), partial(EncoderlessVAE, codes="fixed")],
    ids=["AE", "zeros", "VAE", "ConditionalDecoder", "EncoderlessVAE", "K", "fixed"],
)  # fmt: skip
def test_networks_may_write_all_their_outputs_into_the_same_memory(make: Any, batch: Batch) -> None:
    """As CUDA graphs do where nothing needs a gradient, so with `--compile reduce-overhead`."""
    paradigm = make(image_shape=SHAPE, num_classes=10, num_train=1000).eval()
    with torch.no_grad():
        expected = paradigm.outputs(batch)
        for network in paradigm.children():
            if isinstance(network, Encoder | Decoder):
                _reuse_memory(network)
        found = paradigm.outputs(batch)
    for first, second in zip(expected, found, strict=True):
        assert first.keys() == second.keys()
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, rtol=0, atol=0)


def _reuse_memory(network: nn.Module) -> None:
    forward, held = network.forward, dict[torch.Size, Tensor]()

    def reusing(x: Tensor) -> Tensor:
        output = forward(x)
        return held.setdefault(output.shape, torch.empty_like(output)).copy_(output).view_as(output)

    network.forward = reusing


def test_ae_samples_decode_a_gaussian_with_the_moments_of_the_training_codes(batch: Batch) -> None:
    ae = AE(image_shape=SHAPE, latent_dim=3)
    for _ in range(300):  # the same codes each time, so the moving averages converge to their moments
        terms(ae, batch)
    codes, drawn = ae.encode(batch).detach(), ae.prior(torch.randn(50_000, 3))
    torch.testing.assert_close(drawn.mean(0), codes.mean(0), rtol=0.05, atol=0.01)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(codes.T, correction=0), rtol=0.1, atol=0.005)


def test_conditional_decoder_sees_the_label_and_the_noise(batch: Batch) -> None:
    decoder = ConditionalDecoder(image_shape=SHAPE, num_classes=10, latent_dim=3).eval()
    noise = torch.zeros(2, 3)
    zero, one = decoder.sample(torch.tensor([0, 1]), noise)
    assert not torch.equal(zero, one)
    assert not torch.equal(decoder.sample(torch.tensor([0, 1]), noise + 1)[0], zero)
    assert decoder.reconstruct(batch) is None


def test_vae_terms_are_the_negative_elbo(batch: Batch) -> None:
    vae = VAE(image_shape=SHAPE, latent_dim=3, beta=0.5).eval()
    values = terms(vae, batch)
    mean, log_var = vae.posterior(batch)
    torch.testing.assert_close(values["kl"], gaussian_kl(mean, log_var).detach())
    torch.testing.assert_close(values["bce"], bernoulli_nll(values["logits"], batch.x))
    torch.testing.assert_close(values["loss"], values["bce"] + 0.5 * values["kl"])
    torch.testing.assert_close(values["elbo"], -values["bce"] - values["kl"])


def test_vae_codes_follow_the_posterior(batch: Batch) -> None:
    """An identity decoder shows the codes: their mean and variance are those that the encoder gives."""

    class _Show(Decoder):
        def __init__(self, in_features: int, image_shape: tuple[int, int, int]) -> None:
            super().__init__(in_features, image_shape)
            self.unused = nn.Parameter(torch.zeros(()))

        def forward(self, z: Tensor) -> Tensor:
            return z.reshape(len(z), 1, 1, -1) + self.unused

    vae = VAE(image_shape=(1, 1, 4), latent_dim=4, decoder=_Show).train()
    one = Batch(torch.rand(1, 1, 1, 4).expand(20_000, -1, -1, -1), torch.zeros(20_000).long(), torch.arange(20_000))
    codes = terms(vae, one)["logits"].flatten(1)
    mean, log_var = (value[0].detach() for value in vae.posterior(one))
    torch.testing.assert_close(codes.mean(0), mean, rtol=0, atol=0.04)
    torch.testing.assert_close(codes.var(0), log_var.exp(), rtol=0.05, atol=0)


def test_vae_with_gaussian_observations_logs_nll_instead_of_bce(batch: Batch) -> None:
    vae = VAE(image_shape=SHAPE, latent_dim=3, observation=lambda: Gaussian(0.2)).eval()
    values = terms(vae, batch)
    assert "bce" not in values
    expected = -torch.distributions.Normal(values["logits"].sigmoid(), 0.2).log_prob(batch.x).sum((1, 2, 3))
    torch.testing.assert_close(values["nll"], expected)


def test_encoderless_vae_with_one_code_is_the_bce_of_a_random_decoding(batch: Batch) -> None:
    model = EncoderlessVAE(image_shape=SHAPE, latent_dim=3).eval()
    values = terms(model, batch)
    torch.testing.assert_close(values["loss"], bernoulli_nll(values["logits"], batch.x))
    assert model.conditioning is Conditioning.NONE
    assert model.reconstruct(batch) is None


@pytest.mark.parametrize("count", [2, 64])
def test_encoderless_vae_bound_against_the_definition(batch: Batch, count: int) -> None:
    """L_K = −log (1/K) Σ_k p(x|z_k), each p computed on its own in float64."""
    model = EncoderlessVAE(image_shape=SHAPE, latent_dim=3, num_prior_samples=count).eval()
    codes: list[Tensor] = []
    model.decoder.register_forward_pre_hook(lambda _, args: codes.append(args[0]))
    values = terms(model, batch)
    assert [len(z) for z in codes] == [count], "one decoding of K codes, shared by the batch"
    logits = model.decoder(codes[0]).detach().double()
    p = torch.distributions.Bernoulli(logits=logits, validate_args=False)
    log_p = torch.stack([p.log_prob(x.double()).sum((1, 2, 3)) for x in batch.x])
    torch.testing.assert_close(values["loss"].double(), -log_p.exp().mean(1).log(), rtol=1e-5, atol=1e-4)
    best = torch.stack([logits[k] for k in log_p.argmax(1).tolist()]).float()
    torch.testing.assert_close(values["logits"], best)
    if count > 1:
        torch.testing.assert_close(values["bce"], bernoulli_nll(best, batch.x))
    assert model.conditioning is Conditioning.IMAGE


def test_a_larger_k_is_a_tighter_bound(batch: Batch) -> None:
    """E[L_K] falls with K (Burda et al. 2016, theorem 1); an untrained decoder with wide weights shows it."""
    bounds = []
    for count in (1, 8, 512):
        torch.manual_seed(0)
        model = EncoderlessVAE(image_shape=SHAPE, latent_dim=3, num_prior_samples=count, decoder=MLPDecoder).eval()
        with torch.no_grad():
            for parameter in model.decoder.parameters():
                parameter.mul_(6)
        bounds.append(terms(model, batch)["loss"].mean().item())
    assert bounds[0] > bounds[1] > bounds[2]


def test_fixed_codes_stay_and_fresh_codes_change(batch: Batch) -> None:
    fixed = EncoderlessVAE(image_shape=SHAPE, latent_dim=3, codes="fixed", seed=4).train()
    codes, half = fixed.paired_codes(batch), fixed.paired_codes(batch.rows(slice(None, None, 2)))
    assert codes is not None
    assert half is not None
    assert torch.equal(codes[::2], half), "a code belongs to its image"
    outputs = [terms(fixed, batch)["logits"] for _ in range(2)]
    assert torch.equal(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[0], fixed.decode(codes, batch.y).detach())
    held_out = terms(fixed.eval(), batch)["logits"]
    assert not torch.equal(held_out, outputs[0]), "held-out images have no code of their own"
    assert fixed.encode(batch) is None
    fresh = EncoderlessVAE(image_shape=SHAPE, latent_dim=3).train()
    assert fresh.paired_codes(batch) is None
    assert not torch.equal(terms(fresh, batch)["logits"], terms(fresh, batch)["logits"])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: EncoderlessVAE(image_shape=SHAPE, codes="fixed", num_prior_samples=2), "num_prior_samples"),
        (lambda: EncoderlessVAE(image_shape=SHAPE, num_prior_samples=0), "num_prior_samples"),
        (lambda: VAE(image_shape=SHAPE, beta=-1.0), "beta"),
        (lambda: AE(image_shape=SHAPE, latent_dim=0), "latent_dim"),
        (lambda: Gaussian(0.0), "sigma"),
    ],
)
def test_bad_settings_are_named(make: Any, named: str) -> None:
    with pytest.raises(UserError, match=named):
        make()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, True), ({"fused": False}, False), ({"foreach": True}, None)],
)
def test_optimizers_are_fused_unless_their_settings_say_otherwise(
    settings: dict[str, Any], expected: bool | None
) -> None:
    paradigm = AE(image_shape=(1, 4, 4), optimizer=partial(torch.optim.Adam, **settings))
    optimizer = paradigm.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert [group["fused"] for group in optimizer.param_groups] == [expected]


def test_an_optimizer_without_a_fused_kernel_is_left_as_it_is() -> None:
    optimizer = AE(image_shape=(1, 4, 4), optimizer=torch.optim.RMSprop).configure_optimizers()
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert "fused" not in optimizer.param_groups[0]


def test_the_fit_of_an_autoencoders_codes_goes_on_where_it_was_loaded() -> None:
    """Batches wait for others, and its count of steps is kept twice: a save takes all in, and what is loaded wins."""
    whole, first = AE(image_shape=(1, 4, 4), latent_dim=3), AE(image_shape=(1, 4, 4), latent_dim=3)
    codes = torch.randn(40, 20, 3) * torch.tensor([1.0, 2.0, 3.0])
    for z in codes.clone():
        whole.codes.update(z)
        z.zero_()  # an encoder's output may be overwritten while it waits
    for z in codes[:21]:
        first.codes.update(z)
    second = AE(image_shape=(1, 4, 4), latent_dim=3)
    second.codes.update(torch.randn(20, 3))
    second.codes.load_state_dict(first.codes.state_dict())
    for z in codes[21:]:
        second.codes.update(z)
    noise = torch.randn(5, 3)
    torch.testing.assert_close(second.prior(noise), whole.prior(noise), rtol=0, atol=0)
    saved = whole.codes.state_dict()
    for name, value in saved.items():
        torch.testing.assert_close(second.codes.state_dict()[name], value, rtol=0, atol=0)
    everything = codes.flatten(0, 1)
    torch.testing.assert_close(saved["mean"], everything.mean(0))
    torch.testing.assert_close(saved["second_moment"], everything.T @ everything / len(everything))

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
from encdec.paradigms import AE, VAE, ConditionalDecoder, EncoderlessVAE, Paradigm, encodes, has_codes
from encdec.types import Batch, Conditioning, Losses, UserError

SHAPE = (1, 8, 8)


@pytest.fixture
def batch() -> Batch:
    first: Batch = next(iter(Digits(batch_size=32).val_dataloader()))
    return first


def losses(paradigm: Paradigm, batch: Batch) -> Losses:
    with torch.no_grad():
        return paradigm.losses(batch)


def logits(paradigm: Paradigm, batch: Batch) -> Tensor:
    output = losses(paradigm, batch).logits
    assert output is not None
    return output


def test_ae_loss_is_the_squared_error_of_the_reconstruction(batch: Batch) -> None:
    ae = AE(image_shape=SHAPE, latent_dim=3).eval()
    expected = ((ae.reconstruct(batch) - batch.x) ** 2).sum((1, 2, 3))
    torch.testing.assert_close(losses(ae, batch).loss, expected)
    assert ae.conditioning is Conditioning.IMAGE


def test_ae_on_zeros_is_shown_zeros_in_training_and_evaluated_both_ways(batch: Batch) -> None:
    ae = AE(image_shape=SHAPE, latent_dim=3, encoder_input="zeros")
    assert ae.conditioning is Conditioning.NONE
    assert ae.other_conditioning == {"zeros": Conditioning.NONE}
    assert set(losses(ae, batch).outputs()) == {"_zeros"}
    evaluated = losses(ae.eval(), batch)
    outputs = evaluated.outputs()
    from_zeros = ae.decoder(ae.encoder(torch.zeros(1, *SHAPE)))
    torch.testing.assert_close(outputs["_zeros"], from_zeros.expand(len(batch.x), -1, -1, -1))
    torch.testing.assert_close(outputs[""], ae.decoder(ae.encoder(batch.x)))
    torch.testing.assert_close(evaluated.loss, ((from_zeros.sigmoid() - batch.x) ** 2).sum((1, 2, 3)))


@pytest.mark.parametrize(
    "make",
    [AE, partial(AE, encoder_input="zeros"), VAE, ConditionalDecoder, EncoderlessVAE,
     partial(EncoderlessVAE, num_prior_samples=8), partial(EncoderlessVAE, latents="fixed")],
    ids=["AE", "zeros", "VAE", "ConditionalDecoder", "EncoderlessVAE", "K", "fixed"],
)  # fmt: skip
def test_networks_may_write_all_their_outputs_into_the_same_memory(make: Any, batch: Batch) -> None:
    """As CUDA graphs do where nothing needs a gradient, so with `--compile reduce-overhead`."""
    paradigm = make(image_shape=SHAPE, num_classes=10, num_train=1000).eval()
    with torch.no_grad():
        expected = _values(paradigm.measured_losses(batch))
        for network in paradigm.children():
            if isinstance(network, Encoder | Decoder):
                _reuse_memory(network)
        found = _values(paradigm.measured_losses(batch))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def _values(found: Losses) -> dict[str, Tensor]:
    return {**found.terms, "loss": found.loss} | {f"logits{name}": output for name, output in found.outputs().items()}


def _reuse_memory(network: nn.Module) -> None:
    forward, held = network.forward, dict[torch.Size, Tensor]()

    def reusing(x: Tensor) -> Tensor:
        output = forward(x)
        return held.setdefault(output.shape, torch.empty_like(output)).copy_(output).view_as(output)

    network.forward = reusing


def test_ae_samples_decode_a_gaussian_with_the_moments_of_the_training_codes(batch: Batch) -> None:
    ae = AE(image_shape=SHAPE, latent_dim=3)
    assert ae.ex_post is not None
    codes, noise = ae.encode(batch).detach(), torch.randn(50_000, 3)
    assert torch.equal(ae.sampled.sample(noise), noise), "N(0, I) before it is fitted"
    ae.ex_post.fit(codes)
    drawn = ae.sampled.sample(noise)
    torch.testing.assert_close(drawn.mean(0), codes.mean(0), rtol=0.05, atol=0.01)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(codes.T, correction=0), rtol=0.1, atol=0.005)
    images = ae.sample(torch.zeros(7, dtype=torch.int64), noise[:7])
    torch.testing.assert_close(images, ae.decoder(drawn[:7]).sigmoid().detach())


def test_conditional_decoder_sees_the_label_and_the_noise(batch: Batch) -> None:
    decoder = ConditionalDecoder(image_shape=SHAPE, num_classes=10, latent_dim=3).eval()
    noise = torch.zeros(2, 3)
    zero, one = decoder.sample(torch.tensor([0, 1]), noise)
    assert not torch.equal(zero, one)
    assert not torch.equal(decoder.sample(torch.tensor([0, 1]), noise + 1)[0], zero)
    assert not encodes(decoder)
    with pytest.raises(UserError, match="ConditionalDecoder has no latents"):
        decoder.reconstruct(batch)


def test_vae_terms_are_the_negative_elbo(batch: Batch) -> None:
    vae = VAE(image_shape=SHAPE, latent_dim=3, beta=0.5).eval()
    found = losses(vae, batch)
    terms, q = found.terms, vae.posterior(batch)
    assert found.logits is not None
    torch.testing.assert_close(terms["kl"], gaussian_kl(q.mean, q.log_var).detach())
    torch.testing.assert_close(terms["bce"], bernoulli_nll(found.logits, batch.x))
    torch.testing.assert_close(found.loss, terms["bce"] + 0.5 * terms["kl"])
    torch.testing.assert_close(terms["elbo"], -terms["bce"] - terms["kl"])


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
    codes = logits(vae, one).flatten(1)
    mean, log_var = (value[0].detach() for value in vae.posterior(one))
    torch.testing.assert_close(codes.mean(0), mean, rtol=0, atol=0.04)
    torch.testing.assert_close(codes.var(0), log_var.exp(), rtol=0.05, atol=0)


def test_vae_with_gaussian_observations_logs_nll_instead_of_bce(batch: Batch) -> None:
    vae = VAE(image_shape=SHAPE, latent_dim=3, observation=lambda: Gaussian(0.2)).eval()
    found = losses(vae, batch)
    assert "bce" not in found.terms
    assert found.logits is not None
    expected = -torch.distributions.Normal(found.logits.sigmoid(), 0.2).log_prob(batch.x).sum((1, 2, 3))
    torch.testing.assert_close(found.terms["nll"], expected)


def test_encoderless_vae_with_one_latent_is_the_bce_of_a_random_decoding(batch: Batch) -> None:
    model = EncoderlessVAE(image_shape=SHAPE, latent_dim=3).eval()
    found = losses(model, batch)
    assert found.logits is not None
    torch.testing.assert_close(found.loss, bernoulli_nll(found.logits, batch.x))
    assert model.conditioning is Conditioning.NONE
    assert not encodes(model)
    with pytest.raises(UserError, match="EncoderlessVAE has no latents"):
        model.reconstruct(batch)


@pytest.mark.parametrize("count", [2, 64])
def test_encoderless_vae_bound_against_the_definition(batch: Batch, count: int) -> None:
    """L_K = −log (1/K) Σ_k p(x|z_k), each p computed on its own in float64."""
    model = EncoderlessVAE(image_shape=SHAPE, latent_dim=3, num_prior_samples=count).eval()
    codes: list[Tensor] = []
    model.decoder.register_forward_pre_hook(lambda _, args: codes.append(args[0]))
    values = losses(model, batch)
    assert [len(z) for z in codes] == [count], "one decoding of K latents, shared by the batch"
    decoded = model.decoder(codes[0]).detach().double()
    p = torch.distributions.Bernoulli(logits=decoded, validate_args=False)
    log_p = torch.stack([p.log_prob(x.double()).sum((1, 2, 3)) for x in batch.x])
    torch.testing.assert_close(values.loss.double(), -log_p.exp().mean(1).log(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(values.terms["nll"], values.loss)
    best = torch.stack([decoded[k] for k in log_p.argmax(1).tolist()]).float()
    torch.testing.assert_close(values.logits, best)
    torch.testing.assert_close(values.terms["bce"], bernoulli_nll(best, batch.x))
    assert model.conditioning is Conditioning.IMAGE
    torch.testing.assert_close(model.reconstruct(batch), best.sigmoid())
    assert encodes(model)


def test_a_larger_k_is_a_tighter_bound(batch: Batch) -> None:
    """E[L_K] falls with K (Burda et al. 2016, theorem 1); an untrained decoder with wide weights shows it."""
    bounds = []
    for count in (1, 8, 512):
        torch.manual_seed(0)
        model = EncoderlessVAE(image_shape=SHAPE, latent_dim=3, num_prior_samples=count, decoder=MLPDecoder).eval()
        with torch.no_grad():
            for parameter in model.decoder.parameters():
                parameter.mul_(6)
        bounds.append(losses(model, batch).loss.mean().item())
    assert bounds[0] > bounds[1] > bounds[2]


def test_fixed_latents_stay_and_resampled_latents_change(batch: Batch) -> None:
    fixed = EncoderlessVAE(image_shape=SHAPE, latent_dim=3, latents="fixed", seed=4).train()
    assert has_codes(fixed)
    codes, half = fixed.codes(batch), fixed.codes(batch.rows(slice(None, None, 2)))
    assert torch.equal(codes[::2], half), "a latent belongs to its image"
    outputs = [logits(fixed, batch) for _ in range(2)]
    assert torch.equal(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[0], fixed.decode(codes, batch.y).detach())
    held_out = logits(fixed.eval(), batch)
    assert not torch.equal(held_out, outputs[0]), "held-out images have no latent of their own"
    assert not encodes(fixed)
    assert fixed.conditioning is Conditioning.IMAGE
    resampled = EncoderlessVAE(image_shape=SHAPE, latent_dim=3).train()
    assert not has_codes(resampled)
    assert not torch.equal(logits(resampled, batch), logits(resampled, batch))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: EncoderlessVAE(image_shape=SHAPE, latents="fixed", num_prior_samples=2), "num_prior_samples"),
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
    optimizer = paradigm.configure_optimizers()["optimizer"]
    assert isinstance(optimizer, torch.optim.Adam)
    assert [group["fused"] for group in optimizer.param_groups] == [expected]


def test_an_optimizer_without_a_fused_kernel_is_left_as_it_is() -> None:
    optimizer = AE(image_shape=(1, 4, 4), optimizer=torch.optim.RMSprop).configure_optimizers()["optimizer"]
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert "fused" not in optimizer.param_groups[0]

"""What one does with a model: samples, latents, reconstructions and interpolations of plain tensors."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from encdec.data import Digits
from encdec.paradigms import AE, VAE, ConditionalDecoder, EncoderlessVAE, Paradigm, encodes, use
from encdec.types import Batch, Losses, UserError

SHAPE = (1, 8, 8)
X = torch.linspace(0, 1, 6 * 64).reshape(6, *SHAPE)


class OfNoise(Paradigm):
    """Images of noise, without latents."""

    noise_dim = 64

    def losses(self, batch: Batch) -> Losses:
        return Losses(batch.x.sum((1, 2, 3)))

    def generate(self, noise: Tensor, y: Tensor) -> Tensor:
        return noise.sigmoid().reshape(-1, *self.image_shape)


def vae(**settings: Any) -> VAE:
    return VAE(image_shape=SHAPE, num_classes=3, latent_dim=4, **settings)


def conditional() -> ConditionalDecoder:
    return ConditionalDecoder(image_shape=SHAPE, num_classes=3, latent_dim=4)


def test_a_number_of_samples_has_the_classes_in_turn() -> None:
    model = conditional()
    torch.manual_seed(0)
    by_number = model.sample(7)
    torch.manual_seed(0)
    assert torch.equal(by_number, model.sample(torch.tensor([0, 1, 2, 0, 1, 2, 0])))
    noise = torch.randn(7, 4)
    z = torch.cat([torch.eye(3)[torch.arange(7) % 3], noise], dim=1)
    torch.testing.assert_close(model.sample(7, noise), model.decoder(z).sigmoid().detach())
    assert vae().sample(5).shape == (5, *SHAPE)


def test_images_are_encoded_and_reconstructed_as_batches_are() -> None:
    model = vae().eval()
    batch = Batch(X, torch.zeros(6, dtype=torch.int64), torch.arange(6))
    z = model.encode(X)
    assert torch.equal(z, model.encode(batch))
    assert not z.requires_grad
    assert model.encode(batch).requires_grad, "of a batch, as in training"
    torch.testing.assert_close(model.reconstruct(X), model.decode(z, batch.y).sigmoid().detach())
    assert torch.equal(model.reconstruct(X), model.reconstruct(batch))
    assert torch.equal(model.from_latents(z), model.reconstruct(X))


def test_any_floating_type_is_taken_and_many_images_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    # a search, whose noise must not depend on the part
    model = EncoderlessVAE(image_shape=SHAPE, latent_dim=4, num_prior_samples=8)
    z, images = model.encode(X), model.reconstruct(X)
    assert torch.equal(model.encode(X.double()), z)
    lines = model.interpolate(X[:3], X[3:], 5)
    monkeypatch.setattr(use, "_AT_ONCE", 2 * 64)
    assert torch.equal(model.encode(X), z)
    torch.testing.assert_close(model.reconstruct(X), images)
    torch.testing.assert_close(model.interpolate(X[:3], X[3:], 5), lines)
    assert model.sample(9).shape == (9, *SHAPE)
    assert vae().double().encode(X).dtype == torch.float64


def test_dropout_is_off_and_the_mode_of_every_module_stays() -> None:
    model = vae()
    model.decoder = torch.nn.Sequential(model.decoder, torch.nn.Dropout(0.5))  # type: ignore[assignment]
    model.train()
    model.decoder[1].eval()  # type: ignore[index]
    before = [module.training for module in model.modules()]
    assert torch.equal(model.reconstruct(X), model.reconstruct(X))
    model.sample(2)
    assert [module.training for module in model.modules()] == before


def test_lines_go_from_one_reconstruction_to_the_other() -> None:
    model = vae()
    lines = model.interpolate(X[:2], X[2:4], steps=5)
    assert lines.shape == (2, 5, *SHAPE)
    torch.testing.assert_close(lines[:, 0], model.reconstruct(X[:2]))
    torch.testing.assert_close(lines[:, -1], model.reconstruct(X[2:4]))
    a, b = model.encode(X[:2]), model.encode(X[2:4])
    torch.testing.assert_close(lines[:, 1], model.from_latents(a + (b - a) / 4))
    torch.testing.assert_close(model.interpolate(X[0], X[2], 5), lines[0])
    torch.testing.assert_close(model.interpolate(a, b, 5), lines)
    torch.testing.assert_close(model.interpolate(a[0], b[0], 5), lines[0])


def test_a_model_without_latents_interpolates_noise_and_says_what_it_lacks() -> None:
    model = OfNoise(image_shape=SHAPE)
    line = model.interpolate(torch.zeros(64), torch.ones(64), 3)
    torch.testing.assert_close(line[1], torch.full(SHAPE, 0.5).sigmoid())
    assert not hasattr(model, "encode")
    assert not encodes(model)
    calls: list[Callable[[], Any]] = [
        lambda: model.encode(X),
        lambda: model.reconstruct(X),
        lambda: model.interpolate(X, X),
        lambda: EncoderlessVAE(image_shape=SHAPE).encode(X),
        lambda: conditional().reconstruct(X, torch.zeros(6).long()),
    ]
    for call in calls:
        with pytest.raises(UserError, match="has no latents of images with these settings"):
            call()
    with pytest.raises(UserError, match="those of the training images are given by `codes`"):
        EncoderlessVAE(image_shape=SHAPE, latents="fixed").encode(X)


def test_a_model_is_made_for_data() -> None:
    data = Digits()
    model = AE.for_data(data, latent_dim=3)
    assert (model.image_shape, model.num_classes, model.num_train) == ((1, 8, 8), 10, data.num_train)
    assert model.latent_dim == 3


L = torch.tensor
BATCH = Batch(X, torch.zeros(6, dtype=torch.int64), torch.arange(6))
WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no tensor": (lambda m: m.encode(X.numpy()), r"VAE.encode: images must be a tensor \(N, 1, 8, 8\).*are a ndarray"),
    "one image": (lambda m: m.encode(X[0]), r"have the shape \(1, 8, 8\), but it must be .*images\[None\]"),
    "another size": (lambda m: m.reconstruct(torch.rand(2, 1, 9, 9)), r"VAE.reconstruct: .*\(2, 1, 9, 9\)"),
    "flat": (lambda m: m.encode(torch.rand(64)), r"the shape \(64,\)"),
    "empty": (lambda m: m.encode(X[:0]), r"\(0, 1, 8, 8\), but it must be \(N, 1, 8, 8\), N at least 1"),
    "8 bits": (lambda m: m.encode((255 * X).byte()), r"they are uint8; images / 255 makes them"),
    "whole numbers": (lambda m: m.encode(X.long()), r"they are int64\.$"),
    "0 to 255": (lambda m: m.encode(255 * X), r"lie in \[0, 1\], but they go from 0 to 255: scale them"),
    "normalized": (lambda m: m.encode(2 * X - 1), r"from -1 to 1: .*normalization"),
    "not a number": (lambda m: m.encode(X / 0), r"pixels must be finite"),
    "labels outside": (lambda m: m.sample(L([0, 3])), r"labels go from 0 to 3, but the model has 3 classes, .* 0…2"),
    "labels below": (lambda m: m.sample(L([-1])), r"labels go from -1 to -1"),
    "labels of numbers": (lambda m: m.sample(L([0.5])), r"labels are float32 \(1,\), but they must be int64 \(N,\)"),
    "labels for others": (lambda m: m.encode(X, L([0])), r"labels are int64 \(1,\), but .* int64 \(6,\), one for each"),
    "a list": (lambda m: m.sample([0, 1]), r"int64 \(N,\), or a number of images but it is a list|tensor of labels"),
    "none": (lambda m: m.sample(0), r"VAE.sample: 0 images are asked for"),
    "a share": (lambda m: m.sample(0.5), r"it is a float"),
    "no labels": (lambda m: m.sample(torch.zeros(0).long()), r"N at least 1"),
    "noise of NumPy": (lambda m: m.sample(3, X[:3].numpy()), r"noise is a ndarray, but it must be a tensor \(3, 4\)"),
    "noise of NaN": (lambda m: m.sample(3, torch.randn(3, 4) / 0 * 0), r"VAE.sample: noise must be finite"),
    "infinite latents": (lambda m: m.from_latents(torch.ones(3, 4) / 0), r"VAE.from_latents: latents must be finite"),
    "noise": (lambda m: m.sample(3, torch.randn(3, 5)), r"noise has the shape \(3, 5\), .* it must be \(3, 4\)"),
    "unlike ends": (lambda m: m.interpolate(X, X[:2]), r"ends of lines are \(6, 1, 8, 8\) and \(2, 1, 8, 8\)"),
    "one step": (lambda m: m.interpolate(X, X, 1), r"steps is 1, but a line needs 2 images or more"),
    "latents": (lambda m: m.interpolate(torch.rand(2, 5), torch.rand(2, 5)), r"shape \(2, 5\), .* a tensor \(N, 4\)"),
    "a batch of another size": (lambda m: m.encode(BATCH._replace(x=X[..., :7])), r"batch's images have .*7\)"),
    "images for a batch": (lambda m: m.measured_losses(X), r"measured_losses: a Batch .* it is of type Tensor"),
    "complex noise": (lambda m: m.sample(3, torch.randn(3, 4) + 0j), r"noise must be real numbers, but .* complex"),
    "no line": (lambda m: m.interpolate(torch.ones(4) / 0, torch.ones(4)), r"VAE.interpolate: latents must be finite"),
    "no latents": (lambda m: m.from_latents(torch.rand(5)), r"VAE.from_latents: latents are of shape \(5,\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_image_or_label_is_one_sentence(name: str) -> None:
    call, match = WRONG[name]
    with pytest.raises(UserError, match=match) as error:
        call(vae())
    assert "\n" not in str(error.value)


def test_a_model_that_reads_labels_asks_for_them() -> None:
    model = conditional()
    with pytest.raises(UserError, match=r"from_latents needs the labels of the images, int64 \(2,\) in 0…2"):
        model.from_latents(torch.zeros(2, 4))
    assert model.from_latents(torch.zeros(2, 4), torch.tensor([0, 2])).shape == (2, *SHAPE)
    assert model.reads_labels
    assert not vae().reads_labels
    assert not partial(ConditionalDecoder, image_shape=SHAPE)().reads_labels, "of one class"

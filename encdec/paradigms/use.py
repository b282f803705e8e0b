"""What one does with a model: draw samples, and encode, reconstruct and interpolate images."""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, Self, TypeVar, cast, final

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from encdec import signatures
from encdec.data import DataModule
from encdec.data.tensors import checked_batch, checked_images, checked_labels
from encdec.objectives.losses import pixel_means
from encdec.objectives.noise import Noise, normal
from encdec.paradigms.protocols import encodes, has_codes, reconstructed
from encdec.types import Batch, Shape, UserError

_AT_ONCE = 1 << 20
"""Numbers of images that go through networks at a time."""
_LABELS = 3  # which draw of `normal` tells whether labels are read
_TAKES_IMAGES = "takes_images"
M = TypeVar("M")


class NoLatentsError(UserError, AttributeError):
    """Images have no latents in this model; an AttributeError, so that `hasattr` says so."""


class Usable(pl.LightningModule):
    """Sampling, encoding, reconstructing and interpolating, in evaluation mode and without gradients.

    Images are tensors of any floating type on any device: (N, C, H, W), pixels in [0, 1]; what is made of them is on
    the model's device. Labels are needed only by models whose images depend on them.
    """

    image_shape: Shape
    num_classes: int
    noise_dim: int
    lacks: frozenset[str]
    randomness: Noise
    if TYPE_CHECKING:
        generate: Callable[[Tensor, Tensor], Tensor]
        encode: Callable[..., Tensor]
        """Latents of images, (N, latent_dim); of a batch (see `encdec.types.Batch`) with gradients, as in training."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "encode" in vars(cls) and not hasattr(cls.encode, _TAKES_IMAGES):
            cls.encode = takes_images(cls.encode)

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        if name == "encode":
            raise _no_latents(self)
        return super().__getattr__(name)

    @classmethod
    def for_data(cls, data: DataModule, **settings: Any) -> Self:
        """A model for the images, labels and number of training images of a data set; `settings` are all others.

        Raises:
            UserError: `data` is no data module, its images can't be loaded, or there is no such setting.
        """
        if not isinstance(data, DataModule):
            found = type(data).__name__
            raise UserError(f"{cls.__name__}.for_data: data must be a data module, such as Digits(), not a {found}.")
        signatures.check_names(cls, settings)
        sizes = {name: getattr(data, name) for name in ("image_shape", "num_classes", "num_train")}
        return cls(**{**sizes, **settings})

    @final
    def sample(self, y: int | Tensor, noise: Tensor | None = None) -> Tensor:
        """Draw images, pixel means in [0, 1]: (N, C, H, W).

        Args:
            y: how many, N, whose labels are the classes in turn; or the label of each, int64, (N,). A model without
                labels reads only how many there are.
            noise: standard normal, (N, noise_dim); drawn from torch's global generator if None.

        Raises:
            UserError: there is no such label, or the noise is no tensor, has another shape or is not finite.
        """
        labels = checked_labels(self._name("sample"), y, self.num_classes).to(self.device)
        if noise is None:
            noise = torch.randn(len(labels), self.noise_dim, device=self.device)
        elif not isinstance(noise, Tensor):
            raise UserError(
                f"{self._name('sample')}: noise is a {type(noise).__name__}, but it must be a tensor "
                f"{(len(labels), self.noise_dim)}."
            )
        elif noise.shape != (len(labels), self.noise_dim):
            raise UserError(
                f"{self._name('sample')}: noise has the shape {tuple(noise.shape)}, but for {len(labels)} images of "
                f"{self.noise_dim} numbers each it must be {(len(labels), self.noise_dim)}."
            )
        self._require_finite("sample", "noise", noise)
        noise = noise.to(self.device, self.weights_dtype)
        with self._evaluating():
            parts = zip(noise.split(self._at_once), labels.split(self._at_once), strict=True)
            return torch.cat([self.generate(*part) for part in parts])

    def reconstruct(self, images: Tensor | Batch, y: Tensor | None = None) -> Tensor:
        """The decodings of images' latents, pixel means in [0, 1]: (N, C, H, W) -> (N, C, H, W).

        Args:
            images: see the class; or a batch, which has labels.
            y: labels, int64, (N,).

        Raises:
            UserError: images have no latents in this model, or these are no images of the model's shape.
        """
        batch = self._batch("reconstruct", images, y)
        self._require_latents()
        return self._map(lambda part: reconstructed(self, part)[1], batch)

    def interpolate(self, a: Tensor, b: Tensor, steps: int = 9, y: Tensor | None = None) -> Tensor:
        """Images along straight lines between latents, both ends included.

        (N, C, H, W), (N, C, H, W) -> (N, steps, C, H, W); a single pair of images, (C, H, W), gives
        (steps, C, H, W). The ends may be latents as well, (N, latent_dim), or in a model without latents the noise that
        images are made of, (N, noise_dim).

        Args:
            a: where the lines begin.
            b: where they end.
            steps: images of a line.
            y: labels of the lines, int64, (N,).

        Raises:
            UserError: images have no latents in this model, or the ends have unlike or wrong shapes.
        """
        name = self._name("interpolate")
        for end in (a, b):
            if not isinstance(end, Tensor) or end.shape != a.shape:
                shapes = [tuple(e.shape) if isinstance(e, Tensor) else type(e).__name__ for e in (a, b)]
                raise UserError(f"{name}: the ends of lines are {shapes[0]} and {shapes[1]}, but both must be alike.")
        if not isinstance(steps, int) or steps < 2:
            raise UserError(f"{name}: steps is {steps!r}, but a line needs 2 images or more: both of its ends.")
        if a.ndim in (1, 3):
            return self.interpolate(a[None], b[None], steps, y)[0]
        if a.ndim == 2:
            ends = [self._latents("interpolate", end) for end in (a, b)]
            labels = self._labels("interpolate", y, len(a))
        else:
            batches = [self._batch("interpolate", end, y) for end in (a, b)]
            self._require_latents()
            ends, labels = [self._map(self.encode, batch) for batch in batches], batches[0].y
        weights = torch.linspace(0, 1, steps, dtype=ends[0].dtype, device=self.device)[:, None]
        z = torch.lerp(ends[0][:, None], ends[1][:, None], weights)
        images = self.from_latents(z.flatten(0, 1), labels.repeat_interleave(steps))
        found: Tensor = images.unflatten(0, (len(a), steps))
        return found

    def from_latents(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Images of latents, pixel means in [0, 1]: (N, latent_dim) -> (N, C, H, W).

        Args:
            z: latents; in a model without latents the noise that images are made of, (N, noise_dim).
            y: labels, int64, (N,).

        Raises:
            UserError: the latents have another shape, or are not finite.
        """
        z = self._latents("from_latents", z)
        labels = self._labels("from_latents", y, len(z))
        decode: Callable[[Tensor, Tensor], Tensor] | None = getattr(self, "decode", None)
        with self._evaluating():
            parts = zip(z.split(self._at_once), labels.split(self._at_once), strict=True)
            return torch.cat([self.generate(*one) if decode is None else pixel_means(decode(*one)) for one in parts])

    def _latents(self, method: str, z: object) -> Tensor:
        """Latents, on the model's device, if they are."""
        if not isinstance(z, Tensor) or z.ndim != 2 or z.shape[1] != self._dim or not len(z):
            found = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else f"type {type(z).__name__}"
            raise UserError(
                f"{self._name(method)}: latents are of {found}, but they must be a tensor (N, {self._dim}), N at "
                "least 1."
            )
        self._require_finite(method, "latents", z)
        return z.to(self.device, self.weights_dtype)

    def _require_finite(self, method: str, what: str, numbers: Tensor) -> None:
        if numbers.is_complex():
            raise UserError(f"{self._name(method)}: {what} must be real numbers, but they are complex.")
        if not bool(numbers.isfinite().all()):
            raise UserError(f"{self._name(method)}: {what} must be finite, but some numbers are infinite or NaN.")

    @property
    def weights_dtype(self) -> torch.dtype:
        """The type of the weights, and so of latent codes."""
        return cast(torch.dtype, self.dtype)

    @property
    def reads_labels(self) -> bool:
        """Whether the label changes what is generated."""
        if self.num_classes == 1:
            return False
        noise = normal(0, _LABELS, torch.arange(4, device=self.device), self.noise_dim).to(self.weights_dtype)
        y = torch.zeros(4, dtype=torch.int64, device=self.device)
        with self._evaluating():
            return not torch.equal(self.generate(noise, y), self.generate(noise, y + 1))

    # ------------------------------------------------------------------ inside

    def _require_latents(self) -> None:
        if not encodes(self):
            raise _no_latents(self)

    def _name(self, method: str) -> str:
        return f"{type(self).__name__}.{method}"

    @property
    def _at_once(self) -> int:
        return max(1, _AT_ONCE // math.prod(self.image_shape))

    @property
    def _dim(self) -> int:
        return int(getattr(self, "latent_dim", self.noise_dim)) if hasattr(self, "decode") else self.noise_dim

    def _labels(self, method: str, y: Tensor | None, count: int) -> Tensor:
        """Labels of as many images; zeros where the model does not read them."""
        if y is not None:
            return checked_labels(self._name(method), y, self.num_classes, count).to(self.device)
        if self.reads_labels:
            raise UserError(
                f"{self._name(method)} needs the labels of the images, int64 ({count},) in "
                f"0…{self.num_classes - 1}, because the decoder reads them: give them as y."
            )
        return torch.zeros(count, dtype=torch.int64, device=self.device)

    def _batch(self, method: str, images: Tensor | Batch, y: Tensor | None) -> Batch:
        if isinstance(images, Batch):
            return checked_batch(self._name(method), images, self.image_shape)
        x = checked_images(self._name(method), images, self.image_shape).to(self.device, self.weights_dtype)
        return Batch(x, self._labels(method, y, len(x)), torch.arange(len(x), device=self.device))

    def _map(self, function: Callable[[Batch], Tensor | None], batch: Batch) -> Tensor:
        """A function of batches, applied to parts of one that networks have memory for."""
        found = []
        with self._evaluating():
            for rows in torch.arange(len(batch.x), device=batch.x.device).split(self._at_once):
                self.randomness.restart()
                part = function(batch if len(rows) == len(batch.x) else batch.rows(rows))
                assert part is not None, "it was asked whether images have latents"
                found.append(part)
        return torch.cat(found)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Within, there are no gradients, and all modules are in evaluation mode."""
        training = [module for module in self.modules() if module.training]
        for module in training:
            module.training = False
        try:
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.training = True


def takes_images(encode: Callable[[M, Batch], Tensor]) -> Callable[Concatenate[M, ...], Tensor]:
    """A paradigm's `encode`, which takes batches, as one that takes images as well: `encode(images, y=None)`.

    Every paradigm's is made one when its class is defined; to a type checker only this decorator says so.
    """

    @functools.wraps(encode)
    def encode_images(self: Any, images: Tensor | Batch, y: Tensor | None = None) -> Tensor:
        batch = self._batch("encode", images, y)
        if isinstance(images, Batch):
            return encode(self, batch)
        self._require_latents()
        found: Tensor = self._map(functools.partial(encode, self), batch)
        return found

    del encode_images.__wrapped__  # so that its signature is shown
    setattr(encode_images, _TAKES_IMAGES, True)
    return encode_images


def _no_latents(model: Usable) -> NoLatentsError:
    of_training = "; those of the training images are given by `codes`" if has_codes(model) else ""
    return NoLatentsError(
        f"{type(model).__name__} has no latents of images with these settings, so it can't encode, reconstruct or "
        f"interpolate images{of_training}."
    )

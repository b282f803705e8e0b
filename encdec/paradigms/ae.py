"""Autoencoder, and its ablation in which the encoder is shown nothing."""

from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from encdec.networks import DecoderCallable, EncoderCallable, MLPDecoder, MLPEncoder
from encdec.objectives import losses
from encdec.paradigms.base import Paradigm, require_positive
from encdec.types import Batch, Conditioning, UserError


@final
class AE(Paradigm):
    """Autoencoder: minimises L = (1/N) Σ_i ‖x_i − f(g(x_i))‖², f the decoder, g the encoder.

    With `encoder_input: zeros` the encoder is shown g(0) while x_i stays the target. Then f(g(0)) carries no
    information about x_i, and L is a quadratic whose minimum is the mean image: the loss ends at the variance of
    the data. Such a model is evaluated twice: fed with the original images (`val/mse`) and fed with zeros, as in
    training (`val/mse_zeros`; `val/loss` is the objective and therefore fed with zeros too).

    An autoencoder has no prior. Its samples decode a Gaussian fitted to the codes of the training images
    (ex-post density estimation: Ghosh et al. 2020, https://arxiv.org/abs/1903.12436, sec. 4).

    Source: Hinton & Salakhutdinov 2006, https://doi.org/10.1126/science.1127647.

    Args:
        encoder: makes g: (B, C, H, W) -> (B, latent_dim).
        decoder: makes f: (B, latent_dim) -> (B, C, H, W), logits.
        latent_dim: size of the code.
        encoder_input: what the encoder is shown in training, the image or zeros.
    """

    def __init__(
        self,
        encoder: EncoderCallable = MLPEncoder,
        decoder: DecoderCallable = MLPDecoder,
        latent_dim: int = 32,
        encoder_input: Literal["image", "zeros"] = "image",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.latent_dim, self.encoder_input = latent_dim, encoder_input
        require_positive(self, "latent_dim")
        self.conditioning = Conditioning.IMAGE if encoder_input == "image" else Conditioning.NONE
        self.encoder = encoder(self.image_shape, latent_dim)
        self.decoder = decoder(latent_dim, self.image_shape)
        self.codes = _GaussianFit(latent_dim)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: ‖x − f(g(x))‖², summed over pixels; see the class for what zero-fed training reports."""
        zeros = self.encoder_input == "zeros"
        z = self.encoder(torch.zeros_like(batch.x) if zeros else batch.x)
        if self.training:
            self.codes.update(self._of_all_processes(z.detach()))
        logits = self.decoder(z)
        if zeros and not self.training:
            logits = logits.clone()  # a compiled decoder may write its next output into the same memory
        terms = {"loss": losses.pixel_squared_error(logits, batch.x)}
        if not zeros:
            return {**terms, "logits": logits}
        if self.training:
            return {**terms, "logits_zeros": logits}
        return {**terms, "logits": self.decoder(self.encoder(batch.x)), "logits_zeros": logits}

    def encode(self, batch: Batch) -> Tensor:
        """g(x)."""
        return self.encoder(batch.x)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """f(z)."""
        return self.decoder(z)

    def prior(self, noise: Tensor) -> Tensor:
        """Codes from the Gaussian that was fitted to the training codes."""
        return self.codes.transport(noise)

    def _of_all_processes(self, z: Tensor) -> Tensor:
        """The codes of the global batch, from those of this process's share, as many on each: (B, d) -> (B', d)."""
        if self._trainer is None or self.trainer.world_size == 1:
            return z
        gathered = self.all_gather(z.to(self.codes.mean))
        assert isinstance(gathered, Tensor)
        return gathered.flatten(0, 1)


class _GaussianFit(nn.Module):
    """N(mean, cov) of the codes seen in training, as exponential moving averages over batches.

    The network that makes the codes moves, so recent batches count for more: a batch's weight is 1/t in step t,
    and 0.01 from step 100 on.

    Only `update` changes it, which all processes call with the codes of all: who reads it, as the one process that
    draws pictures does, must not leave the others behind.
    """

    mean: Tensor
    second_moment: Tensor
    steps: Tensor
    _AT_MOST = 16  # batches that wait

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("second_moment", torch.eye(dim))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._steps: int | None = None  # the present number, written there when it is saved: reading it waits for a GPU
        self._waiting: list[Tensor] = []

    def update(self, z: Tensor) -> None:
        """Take the codes of a batch, (B, dim), into account; they wait for others, as between steps it takes longer."""
        self._waiting.append(z.detach().clone())  # a compiled encoder may use its output's memory again
        if len(self._waiting) == self._AT_MOST:
            mean, second_moment, self._steps = self._present()
            self.mean.copy_(mean)
            self.second_moment.copy_(second_moment)
            self._waiting.clear()

    def _present(self) -> tuple[Tensor, Tensor, int]:
        """Mean, second moment and number of steps, with the batches that wait."""
        steps = int(self.steps) if self._steps is None else self._steps
        mean, second_moment = self.mean.clone(), self.second_moment.clone()
        with torch.autocast(mean.device.type, enabled=False):
            for z in self._waiting:
                z, steps = z.to(mean), steps + 1
                weight = max(1 / steps, 0.01)
                mean.lerp_(z.mean(0), weight)
                second_moment.addmm_(z.T, z, beta=1 - weight, alpha=weight / len(z))
        return mean, second_moment, steps

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        mean, second_moment, steps = self._present()
        saved = {"mean": mean, "second_moment": second_moment, "steps": torch.full_like(self.steps, steps)}
        destination.update({prefix + name: value for name, value in saved.items()})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        steps = state_dict.get(f"{prefix}steps")
        if isinstance(steps, Tensor) and (steps < 0).any():
            raise UserError(f"{prefix}steps is {steps.tolist()}, but it counts steps: take another checkpoint.")
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._steps = None
        self._waiting.clear()

    def transport(self, noise: Tensor) -> Tensor:
        """Codes distributed as N(mean, cov), from standard normal noise: (B, dim) -> (B, dim)."""
        mean, second_moment, _ = self._present()
        mean, second_moment = mean.float(), second_moment.float()
        variances, axes = torch.linalg.eigh(second_moment - torch.outer(mean, mean))
        scaled_axes: Tensor = axes * variances.clamp(min=0).sqrt()
        return (mean + noise.float() @ scaled_axes.T).to(noise.dtype)

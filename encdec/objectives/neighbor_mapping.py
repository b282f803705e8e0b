"""A density fitted to latents as a network that maps noise to them: each latent draws the nearest of many outputs."""

from typing import ClassVar, NoReturn, final

import torch
from torch import Tensor
from torch.nn import functional

from encdec.objectives.losses import full_precision
from encdec.objectives.priors import FittedPrior, full_products
from encdec.types import UserError

_HIDDEN, _MOST_NOISE = 256, 32
_LATENTS, _NOISES, _BATCH = 2048, 2, 128  # of a round; noises for each latent
_RATE, _BETAS, _DECAY = 2e-3, (0.5, 0.999), 1e-5


@final
class NeighborMapping(FittedPrior):
    """z = T(e), e ~ N(0, I), T a network: minimises Σ_i min_j ‖z_i − T(e_j)‖² over T, for fresh noise in each round.

    This is implicit maximum likelihood estimation, IMLE, over latents: each latent z_i of a round chooses the nearest
    of the outputs of twice as many noises, and T is trained on these pairs. So every latent has an output near it, and
    nothing asks whether an output is near a latent. T has two hidden layers of 256, and half as many inputs as outputs,
    32 at most: with more, outputs fill the space between the latents. Its fit is a function of the latents and their
    order, and takes about 10 seconds of one core, however many latents there are.

    T has no inverse, so there is no density.

    Source: stage 2 of GLANN, Hoshen, Li & Malik 2019, https://arxiv.org/abs/1812.08985; IMLE: Li & Malik 2018,
    https://arxiv.org/abs/1809.09087. Other than in the authors' code (https://github.com/yedidh/glann), a round takes
    2,048 latents and not all, so that there can be more rounds with fresh noise, and T has no batch norm.

    Args:
        dim: size of a latent.
        rounds: how often noise is drawn and assigned anew.

    Attributes:
        shift: the latents' mean, (dim,).
        scale: root of their mean variance, ().

    Raises:
        UserError: `rounds` is not positive.
    """

    has_density: ClassVar[bool] = False
    shift: Tensor
    scale: Tensor

    def __init__(self, dim: int, rounds: int = 150) -> None:
        super().__init__(dim, min(-(-dim // 2), _MOST_NOISE))
        if rounds < 1:
            raise UserError(f"NeighborMapping: rounds is {rounds}, but it must be at least 1.", 2)
        self.rounds = rounds
        # until it is fitted T(e) = e, by the positive and the negative parts of its numbers, and zeros behind them
        both = torch.cat([torch.eye(self.noise_dim), -torch.eye(self.noise_dim)])
        weights = torch.zeros(_HIDDEN, self.noise_dim), torch.eye(_HIDDEN), torch.zeros(dim, _HIDDEN)
        weights[0][: len(both)] = both
        weights[2][: self.noise_dim, : len(both)] = both.T
        for layer, weight in enumerate(weights):
            self.register_buffer(f"weight_{layer}", weight)
            self.register_buffer(f"bias_{layer}", torch.zeros(len(weight)))
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))

    def sample(self, noise: Tensor) -> Tensor:
        """See `Prior.sample`."""
        e = full_precision(noise)
        layers = [(self.get_buffer(f"weight_{k}").to(e), self.get_buffer(f"bias_{k}").to(e)) for k in range(3)]
        with full_products(e):
            z = self.shift.to(e) + self.scale.to(e) * _mapped(e, layers)
        return z.to(noise.dtype)

    def log_prob(self, z: Tensor) -> NoReturn:
        """See `Prior.log_prob`: it is not known.

        Raises:
            UserError: always.
        """
        raise UserError(
            "NeighborMapping gives samples but no density of them, so there is no log p(z): take FittedGaussian or "
            "GaussianMixture where one is needed."
        )

    def _estimate(self, codes: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode(False), full_products(codes):  # it takes gradients, wherever the caller is
            shift = codes.mean(0)
            scale = (codes - shift).square().mean().sqrt().clamp(min=1e-20)
            layers = self._trained(((codes - shift) / scale).float())
        found = {"shift": shift, "scale": scale}
        for layer, (weight, bias) in enumerate(layers):
            found |= {f"weight_{layer}": weight.detach(), f"bias_{layer}": bias.detach()}
        return found

    def _trained(self, z: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases of T, of latents (N, dim) around 0 with variance 1."""
        generator = torch.Generator().manual_seed(0)
        layers = []
        for inputs, outputs in ((self.noise_dim, _HIDDEN), (_HIDDEN, _HIDDEN), (_HIDDEN, self.dim)):
            weight = torch.randn(outputs, inputs, generator=generator) * (2 / inputs) ** 0.5  # He et al. 2015
            layers.append((weight.requires_grad_(), torch.zeros(outputs, requires_grad=True)))
        parameters = [parameter for layer in layers for parameter in layer]
        adam = torch.optim.Adam(parameters, _RATE, _BETAS, weight_decay=_DECAY)
        for done in range(self.rounds):
            adam.param_groups[0]["lr"] = _RATE * (1 - done / self.rounds)
            # where there are fewer latents, several times each, so that T is trained for as long
            order = [torch.randperm(len(z), generator=generator) for _ in range(-(-_LATENTS // len(z)))]
            some = z[torch.cat(order)[:_LATENTS]]
            noise = torch.randn(_NOISES * len(some), self.noise_dim, generator=generator)
            noise = noise[_nearest(some, _mapped(noise, layers))]
            for rows in torch.arange(len(some)).split(_BATCH):
                with torch.enable_grad():
                    loss = (_mapped(noise[rows], layers) - some[rows]).square().sum(1).mean()
                    gradients = torch.autograd.grad(loss, parameters)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                adam.step()
        return layers


def _mapped(e: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """T(e): (B, noise_dim) -> (B, dim)."""
    for weight, bias in layers[:-1]:
        e = functional.linear(e, weight, bias).relu()
    return functional.linear(e, *layers[-1])


def _nearest(z: Tensor, outputs: Tensor) -> Tensor:
    """Which of the outputs is nearest to each latent: (N, d), (M, d) -> (N,)."""
    squares = outputs.square().sum(1)
    return torch.cat([torch.addmm(squares, part, outputs.T, alpha=-2).argmin(1) for part in z.split(1024)])

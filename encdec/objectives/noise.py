"""Gaussian noise that is a function of what it is for, instead of a stream that is consumed.

`normal(seed, draw, index, dim)` hashes its arguments, so the noise of an image depends on the seed and the image
and on nothing else: not on the batch size, the number of processes or workers, or what was drawn before. The
codes of evaluations and the fixed codes of `EncoderlessVAE` are made this way. A hash costs ten times a call of
torch.randn, so training steps seed a generator by `step_seed` instead.
"""

import hashlib
import math
import struct

import torch
from torch import Tensor


def _signed(value: int) -> int:
    value &= 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >= 1 << 63 else value


_MIX_1, _MIX_2 = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)
# odd constants without a small linear relation, so that (seed, draw, index) do not collide
_STEP, _SEED_STEP, _DRAW_STEP = _signed(0x9E3779B97F4A7C15), 0xD6E8FEB86659FD93, 0xA0761D6478BD642F


def _shift(h: Tensor, bits: int) -> Tensor:
    return (h >> bits) & ((1 << (64 - bits)) - 1)  # torch shifts int64 arithmetically; clear the copied sign


def _mix(h: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014, https://doi.org/10.1145/2714064.2660195)."""
    h = (h ^ _shift(h, 30)) * _MIX_1
    h = (h ^ _shift(h, 27)) * _MIX_2
    return h ^ _shift(h, 31)


def normal(seed: int, draw: int, index: Tensor, dim: int) -> Tensor:
    """Standard normal numbers, float32, (B, dim): row b is a function of (seed, draw, index[b]) alone.

    Args:
        seed: the run's seed.
        draw: which draw this is, where one image needs several.
        index: int64, (B,), what each row is for, for example the position of an image in its split.
        dim: how many numbers a row has.
    """
    key = _signed(seed * _SEED_STEP + draw * _DRAW_STEP)
    row = _mix(index * _STEP + key)
    column = torch.arange(1, (dim + 1) // 2 + 1, device=index.device) * _STEP
    h = _mix(row.unsqueeze(1) + column)
    # Box-Muller: the two halves of a hash give a radius and an angle, these give two normal numbers
    radius = ((_shift(h, 32) + 1).float() * 2.0**-32).log().mul(-2).sqrt()
    angle = (h & 0xFFFFFFFF).float() * (2 * math.pi * 2.0**-32)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :dim]


class Noise:
    """The noise of a model: fresh at each step of a training, the same at every evaluation.

    In training it is a function of (seed, step, position in the global batch), in evaluation of (seed, image). So
    neither the number of processes nor the batch size of an evaluation changes a result. Where no step was begun, as
    in a training loop that is not Lightning's, noise comes from torch's global generator.

    Args:
        seed: the run's.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._rank, self._processes = 0, 1
        self._step: int | None = None
        self._generator: torch.Generator | None = None
        self._is_seeded = False
        self._draws = 0

    def begin_step(self, step: int, rank: int, processes: int, device: torch.device) -> None:
        """Draw the noise of a training step from now on, also that of dropout."""
        self._begin(step, rank, processes, device)

    def begin_epoch(self, step: int, rank: int, processes: int, device: torch.device) -> None:
        """Draw the noise of what is done before an epoch whose first step is `step`; it is not that of the step."""
        self._begin(~step, rank, processes, device)

    def _begin(self, step: int, rank: int, processes: int, device: torch.device) -> None:
        self._step, self._rank, self._processes, self._is_seeded = step, rank, processes, False
        dropout_seed = step_seed(self.seed, step, rank)
        torch.default_generator.manual_seed(dropout_seed)  # torch.manual_seed takes 0.15 ms
        if device.type == "cuda":
            torch.cuda.manual_seed(dropout_seed)

    def end_training(self) -> None:
        """Draw from torch's global generator from now on."""
        self._step = None

    def restart(self) -> None:
        """Count draws anew, as for each batch: in evaluation the same calls then give the same noise."""
        self._draws = 0

    def of_images(self, index: Tensor, dim: int, training: bool) -> Tensor:
        """Standard normal noise for the images at `index`: (B,) -> (B, dim), float32."""
        if not training:
            return self._of_evaluation(index, dim)
        return self._fresh(len(index) * self._processes, dim, index.device)[self._rank :: self._processes]

    def shared(self, count: int, dim: int, device: torch.device, training: bool) -> Tensor:
        """Standard normal noise, (count, dim), float32, the same for all images of a batch and on all processes."""
        if not training:
            return self._of_evaluation(torch.arange(count, device=device), dim)
        return self._fresh(count, dim, device)

    def _of_evaluation(self, index: Tensor, dim: int) -> Tensor:
        self._draws += 1
        return normal(self.seed, -self._draws, index, dim)

    def _fresh(self, count: int, dim: int, device: torch.device) -> Tensor:
        if self._step is None:
            return torch.randn(count, dim, device=device)
        if not self._is_seeded:  # to seed a generator that is not used takes time
            self._generator = self._generator or torch.Generator(device)
            self._generator.manual_seed(step_seed(self.seed, self._step))
            self._is_seeded = True
        return torch.randn(count, dim, generator=self._generator, device=device)


def step_seed(*keys: int) -> int:
    """A seed for a generator, a function of `keys`, for example (seed, step): another key, an unrelated seed."""
    digest = hashlib.blake2b(struct.pack(f"{len(keys)}q", *keys), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)

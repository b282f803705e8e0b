"""What a paradigm stores for each training image: latents with an optimizer of their own, and assignments."""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from encdec.objectives.noise import normal
from encdec.training.gathering import gathered
from encdec.types import UserError

Gather = Callable[[Tensor], Tensor]
"""Concatenates the tensors of all processes, (B, …) of equal shape on each, in the order of their ranks."""


_START = 2  # which draw of `normal` stored latents begin at; fixed latents are another

_MOST_PENDING = 1000
"""Batches whose rows may wait for a step; more than anybody's gradients are accumulated over."""


@final
class LatentTable(nn.Module):
    """One row of latents for each training image, with a row-wise Adam.

    Each row has its own moments and its own number of steps, so rows of images that are not in a batch do not move,
    as they would with a parameter under an optimizer with momentum. All of it is in checkpoints.

    A training step asks for `rows`, which become leaves of the gradient, and after the backward pass calls `step`.

    Source: Kingma & Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1, for each row.

    Args:
        num_rows: how many images there are, N.
        dim: how many numbers a row has, d.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        start: where the rows begin, (N, d); normal numbers of standard deviation 0.01 if not given.
        project: what rows (B, d) are replaced by after they were moved, and at the start.

    Attributes:
        values: the rows, (N, d).
        first_moment: (N, d).
        second_moment: (N, d).
        steps: how often each row was moved, int64, (N,).

    Raises:
        UserError: `start` has another shape.
    """

    of_each_image = True
    """Its state belongs to the training images that it was made for."""
    values: Tensor
    first_moment: Tensor
    second_moment: Tensor
    steps: Tensor

    def __init__(
        self,
        num_rows: int,
        dim: int,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        start: Tensor | None = None,
        project: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.lr, self.betas, self.eps, self.project = lr, betas, eps, project
        values = 0.01 * torch.randn(num_rows, dim) if start is None else start.detach().clone()
        if values.shape != (num_rows, dim):
            raise UserError(
                f"A table of {num_rows} rows of {dim} latents can't start from values of shape {tuple(values.shape)}."
            )
        self.register_buffer("values", values if project is None else project(values))
        self.register_buffer("first_moment", torch.zeros_like(values))
        self.register_buffer("second_moment", torch.zeros_like(values))
        self.register_buffer("steps", torch.zeros(num_rows, dtype=torch.int64))
        self._pending: list[tuple[Tensor, Tensor]] = []  # indices and leaves since the last step

    def rows(self, index: Tensor) -> Tensor:
        """The rows of images, int64 (B,) -> (B, d); in training, a leaf whose gradient the next `step` applies."""
        rows = self.values.index_select(0, index)
        if self.training and torch.is_grad_enabled():
            rows.requires_grad_()
            self._pending.append((index, rows))
            if len(self._pending) > _MOST_PENDING:
                raise UserError(
                    f"The rows of a table were asked for {_MOST_PENDING:,} times without a step, so none has moved: "
                    "call `table.step(self.gradient_scale)` in `after_step`."
                )
        return rows

    @torch.no_grad()
    def step(self, scale: float = 1.0, gather: Gather = gathered) -> None:
        """Move all rows that were asked for since the last step and have a gradient; then forget these.

        What was minimised is a mean over the images of a batch; a row follows the gradient of its own image's loss, so
        that neither the batch nor the number of processes changes its path. A row that was asked for several times gets
        the sum of its gradients. A row whose gradient is not finite does not move, as when reduced precision overflows.

        Args:
            scale: of the gradients, which undoes a loss that was scaled: `Paradigm.gradient_scale`.
            gather: with several processes, which must all call this after batches of equal size: every process moves
                the rows of all of them, so that their tables stay equal, bit for bit.
        """
        pending = [(index, leaf.grad) for index, leaf in self._pending if leaf.grad is not None]
        self._pending.clear()
        if not pending:
            return
        index = torch.cat([index for index, _ in pending])
        gradients = torch.cat([gradient * len(gradient) for _, gradient in pending]) * scale
        index, gradients = gather(index), gather(gradients)
        index, place = index.unique(return_inverse=True)
        gradient = gradients.new_zeros(len(index), gradients.shape[1]).index_add_(0, place, gradients).to(self.values)
        finite = (0 * gradient).sum(1) == 0  # 0 times what is not finite is NaN
        if not finite.all():
            index, gradient = index[finite], gradient[finite]
        self._adam(index, gradient)

    def _adam(self, index: Tensor, gradient: Tensor) -> None:
        """One step of Adam for different rows: (B,), (B, d)."""
        # index_select and index_copy_ take a third of the time of [index]
        steps = self.steps.index_select(0, index) + 1
        first = self.first_moment.index_select(0, index).lerp_(gradient, 1 - self.betas[0])
        second = self.second_moment.index_select(0, index).lerp_(gradient.square(), 1 - self.betas[1])
        corrections = [(1 - beta**steps).to(gradient)[:, None] for beta in self.betas]
        update = (first / corrections[0]) / ((second / corrections[1]).sqrt_() + self.eps)
        rows = self.values.index_select(0, index).sub_(update, alpha=self.lr)
        if self.project is not None:
            rows = self.project(rows)
        self.values.index_copy_(0, index, rows)
        self.first_moment.index_copy_(0, index, first)
        self.second_moment.index_copy_(0, index, second)
        self.steps.index_copy_(0, index, steps)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        steps = state_dict.get(f"{prefix}steps")
        if isinstance(steps, Tensor) and (steps < 0).any():
            raise UserError(f"{prefix}steps has negative numbers, but it counts steps: take another checkpoint.")
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._pending.clear()


@final
class StoredLatents(nn.Module):
    """One row of latents for each training image, without an optimizer: it is read, and what was found is written.

    The rows begin at N(0, I), each a function of the seed and its image. They are in checkpoints.

    Args:
        num_rows: how many images there are, N.
        dim: how many numbers a row has, d.
        seed: of the rows at the start.

    Attributes:
        values: the rows, (N, d).
    """

    of_each_image = True
    each_image_once = True
    """An epoch may draw no image twice: which of its latents would be kept?"""
    values: Tensor

    def __init__(self, num_rows: int, dim: int, seed: int) -> None:
        super().__init__()
        self.register_buffer("values", normal(seed, _START, torch.arange(num_rows), dim))

    def rows(self, index: Tensor) -> Tensor:
        """The rows of images, int64 (B,) -> (B, d)."""
        return self.values.index_select(0, index)

    @torch.no_grad()
    def write(self, index: Tensor, rows: Tensor, gather: Gather = gathered) -> None:
        """Replace rows: (B,), (B, d); those that are not finite stay as they were.

        Args:
            index: different images.
            rows: their latents.
            gather: with several processes, which must all call this after batches of equal size: every process writes
                the rows of all of them.
        """
        index, rows = gather(index), gather(rows.to(self.values))
        finite = rows.isfinite().all(1, keepdim=True)
        self.values.index_copy_(0, index, torch.where(finite, rows, self.values.index_select(0, index)))


@final
class Permutation(nn.Module):
    """A permutation of 0, …, N − 1 that training may change, for example which latent each image has.

    Args:
        count: N.

    Attributes:
        of: what each position is assigned, int64, (N,), each number once; at first its own.
        each_image_once: whether an epoch may draw no image twice, so that all that is assigned is drawn as often.
    """

    of_each_image = of_seed = True
    of: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.each_image_once = count > 1
        self.register_buffer("of", torch.arange(count))

    def __getitem__(self, index: Tensor) -> Tensor:
        """What positions are assigned: int64 (B,) -> (B,)."""
        return self.of[index]

    @torch.no_grad()
    def assign(self, index: Tensor, to: Tensor, gather: Gather = gathered) -> None:
        """Assign `to` to the positions `index`, both int64, (B,).

        Positions that had these numbers and are not in `index` get those which became free, in the order of `to` and
        of `index`: for a single position this is a swap.

        Args:
            index: different positions.
            to: different numbers of 0, …, N − 1.
            gather: with several processes, which must all call this: each makes the assignments of all.

        Raises:
            UserError: a position or a number is there twice, also among all processes, or there is none such.
        """
        index, to = gather(index), gather(to)
        count = len(self.of)
        for what, numbers in (("position", index), ("number", to)):
            if len(numbers.unique()) != len(numbers) or not ((numbers >= 0) & (numbers < count)).all():
                raise UserError(
                    f"A permutation of {count} is told to assign a {what} twice, or one outside 0 to {count - 1}."
                )
        if len(index) != len(to):
            raise UserError(f"A permutation is told to assign {len(to)} numbers to {len(index)} positions.")
        before = self.of[index]
        taken = to[~torch.isin(to, before)]
        if len(taken):
            position = torch.empty_like(self.of)
            position[self.of] = torch.arange(count, device=self.of.device)
            self.of[position[taken]] = before[~torch.isin(before, to)]
        self.of[index] = to

    @torch.no_grad()
    def permute(self, owner: Tensor, gather: Gather = gathered) -> None:
        """Assign to each position what the position `owner` of it had: int64, (N,).

        Args:
            owner: a permutation of 0, …, N − 1.
            gather: with several processes, which must all call this: that of the first is taken by all.

        Raises:
            UserError: it is no permutation.
        """
        owner = gather(owner)[: len(self.of)]
        if len(owner) != len(self.of) or not _is_permutation(owner):
            raise UserError(f"A permutation of {len(self.of)} is told to permute by what is none.")
        self.of.copy_(self.of[owner])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        of = state_dict.get(f"{prefix}of")
        if isinstance(of, Tensor) and of.shape == self.of.shape and not _is_permutation(of):
            raise UserError(f"{prefix}of is not a permutation of 0 to {len(of) - 1}: take another checkpoint.")
        super()._load_from_state_dict(state_dict, prefix, *args)


def _is_permutation(of: Tensor) -> bool:
    return torch.equal(of.sort().values, torch.arange(len(of), device=of.device, dtype=of.dtype))

"""What every paradigm is measured with, and the exact means of it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from encdec.objectives import losses
from encdec.types import UserError


def mse(logits: Tensor, x: Tensor) -> Tensor:
    """Squared error of the pixel means sigmoid(logits): (B, C, H, W), (B, C, H, W) -> (B,), mean over pixels."""
    return losses.pixel_squared_error(logits, x) / math.prod(x.shape[1:])


PIXEL_TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse, "bce": losses.bernoulli_nll}
"""How far an output is from its image, for every paradigm: MSE per pixel, BCE in nats per image."""


class RunningMeans:
    """Means over images of per-image terms, exact over batches of any size and over processes.

    Sums are kept in float64 on the terms' device, so that an update never waits for the device.
    """

    _AT_MOST = 16  # batches that wait to be summed up

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._count = 0
        self._waiting: list[list[Tensor]] = []  # the terms of batches of equal size, each (B,)

    def update(self, terms: Mapping[str, Tensor]) -> None:
        """Add a batch: every term is (B,), and the names are the same at every update.

        Raises:
            UserError: they are not, so that values of different terms would be averaged.
        """
        names = self._names or list(terms)
        if terms.keys() != set(names):
            raise UserError(
                f"The terms of a batch are {', '.join(terms)}, but those of the batches before are {', '.join(names)}: "
                "`losses` must give the same terms for every batch."
            )
        values = [terms[name].detach() for name in names]
        shapes = {value.shape for value in values}
        if len(shapes) > 1 or len(next(iter(shapes))) != 1:
            shown = ", ".join(f"{name} {tuple(terms[name].shape)}" for name in names)
            raise UserError(
                f"The terms of a batch have the shapes {shown}: `losses` must give one number for each image, (B,)."
            )
        self._names, waiting = names, self._waiting
        if len(waiting) == self._AT_MOST or (waiting and waiting[0][0].shape != values[0].shape):
            self._sum_up()
        self._waiting.append(values)
        self._count += values[0].shape[0]

    def _sum_up(self) -> None:
        """Add the batches that wait, one by one: together they would give other digits than apart."""
        if not self._waiting:
            return
        values = torch.stack([term for batch in self._waiting for term in batch])
        values = values.view(len(self._waiting), len(self._names), -1)
        # Apple's GPUs have no float64
        sums = values.sum(2, dtype=torch.float32 if values.device.type == "mps" else torch.float64)
        total = sums.new_zeros(len(self._names)) if self._sums is None else self._sums.to(sums, copy=True)
        for batch in sums.unbind():
            total.add_(batch)
        self._sums, self._waiting = total, []

    def __bool__(self) -> bool:
        return self._count > 0

    def compute(self, sum_over_processes: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The mean of every term; `sum_over_processes` adds a tensor up over all processes."""
        totals = self.totals(sum_over_processes)
        return dict(zip(self._names, totals[:-1] / totals[-1], strict=True))

    def totals(self, sum_over_processes: Callable[[Tensor], Tensor]) -> Tensor:
        """The sum of every term over all processes, and last the number of images."""
        self._sum_up()
        assert self._sums is not None, "nothing to sum up: update() was not called"
        return sum_over_processes(torch.cat([self._sums, self._sums.new_tensor([self._count])]))

    def state_dict(
        self, rank: int, processes: int, sum_over_processes: Callable[[Tensor], Tensor]
    ) -> dict[str, list[str] | list[list[float]]]:
        """What each process has summed up, in plain values: a row each, so that all go on with the same bits."""
        if not self:
            return {"names": [], "totals": []}
        own = self.totals(lambda tensor: tensor)
        rows = own.new_zeros(processes, len(own))
        rows[rank] = own
        return {"names": self._names, "totals": sum_over_processes(rows).tolist()}

    def load_state_dict(self, state: Mapping[str, list[Any]], rank: int, processes: int) -> None:
        """Go on from a state; if there were more or fewer processes then, the first one goes on for all."""
        self.reset()
        rows = torch.tensor(state["totals"], dtype=torch.float64).reshape(-1, len(state["names"]) + 1)
        if len(rows) != processes:
            rows = rows.sum(0, keepdim=True)
        if state["names"] and rank < len(rows):
            *sums, count = rows[rank].tolist()
            self._names, self._sums, self._count = state["names"], torch.tensor(sums, dtype=torch.float64), int(count)

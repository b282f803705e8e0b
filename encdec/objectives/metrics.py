"""What every paradigm is measured with, and the exact means of it."""

import math
from collections.abc import Callable, Container, Mapping
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


def pixel_terms(outputs: Mapping[str, Tensor], x: Tensor, leave_out: Container[str] = ()) -> dict[str, Tensor]:
    """`mse` and `bce` of outputs by their suffix, each (B,), without a gradient: (B, C, H, W), (B, C, H, W) -> (B,).

    Args:
        outputs: logits by suffix, such as "" and "_zeros".
        x: the images.
        leave_out: names that are known already.
    """
    with torch.no_grad():
        return {
            f"{name}{suffix}": term(logits.detach(), x)
            for suffix, logits in outputs.items()
            for name, term in PIXEL_TERMS.items()
            if f"{name}{suffix}" not in leave_out
        }


class RunningMeans:
    """Means over images of a batch's terms, exact over batches of any size and over processes.

    Sums are kept in float64 on the terms' device, so that an update never waits for the device.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._count = 0

    def update(self, terms: Mapping[str, Tensor], count: int) -> None:
        """Add a batch; the names are the same at every update.

        Args:
            terms: each a value for each image, (B,), or one for the set of them, (), which counts as their mean.
            count: B, the number of images.

        Raises:
            UserError: the names or the shapes are others, so that different things would be averaged.
        """
        names = self._names or list(terms)
        if terms.keys() != set(names):
            raise UserError(
                f"The terms of a batch are {', '.join(terms)}, but those of the batches before are {', '.join(names)}: "
                "`losses` must give the same terms for every batch."
            )
        if any(term.shape not in ((count,), ()) for term in terms.values()):
            shown = ", ".join(f"{name} {tuple(terms[name].shape)}" for name in names)
            raise UserError(
                f"The terms of a batch of {count} have the shapes {shown}: `losses` must give one number for each "
                "image, (B,), or one for the set of them, ()."
            )
        values = [terms[name].detach() for name in names]
        # Apple's GPUs have no float64
        dtype = torch.float32 if values[0].device.type == "mps" else torch.float64
        if all(value.ndim for value in values) and len({value.dtype for value in values}) == 1:
            sums = torch.stack(values).sum(1, dtype=dtype)  # in two operations; each takes as long as a small step's
        else:
            sums = torch.stack([value.sum(dtype=dtype) if value.ndim else value.to(dtype) * count for value in values])
        self._names, self._count = names, self._count + count
        self._sums = sums if self._sums is None else sums.add_(self._sums.to(sums.device))

    def __bool__(self) -> bool:
        return self._count > 0

    def compute(self, sum_over_processes: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The mean of every term; `sum_over_processes` adds a tensor up over all processes."""
        totals = self.totals(sum_over_processes)
        return dict(zip(self._names, totals[:-1] / totals[-1], strict=True))

    def totals(self, sum_over_processes: Callable[[Tensor], Tensor]) -> Tensor:
        """The sum of every term over all processes, and last the number of images."""
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

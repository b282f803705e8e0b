"""Which training images an epoch draws, in which order, and which of them are mirrored."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from encdec.objectives.noise import step_seed
from encdec.types import UserError


@final
@dataclass(frozen=True)
class Order:
    """How the training images of an epoch are drawn: a function of (seed, epoch) and of nothing else.

    So a run that is resumed goes on with the same images, and the number of processes changes none.

    Attributes:
        seed: of the order.
        shuffle: whether images are permuted; if not, every epoch is as the first one, and that has them in their order.
        class_balanced: whether an epoch draws as many images of each class, see `DataModule`.
        horizontal_flips: whether each image is mirrored or not, with equal chances.
        drop_last: whether an epoch leaves out its last batch, where that is smaller than the others.
    """

    seed: int = 0
    shuffle: bool = True
    class_balanced: bool = False
    horizontal_flips: bool = False
    drop_last: bool = False

    def drawn(self, epoch: int, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """The images of an epoch, as positions, int64, (N,), and whether each is mirrored, bool, (N,); None if none is.

        Args:
            epoch: counted from 0.
            labels: of all training images, int64, (N,).
        """
        count = len(labels)
        generator = torch.Generator().manual_seed(step_seed(self.seed, epoch if self.shuffle else 0))
        if self.class_balanced:
            order = _balanced(labels.cpu(), generator)
        else:
            order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        flips = torch.rand(count, generator=generator) < 0.5 if self.horizontal_flips else None
        return order, flips

    def batches(self, count: int, processes: int, batch_size: int) -> int:
        """How many batches an epoch of some images has on each process."""
        count, at_once = count - count % processes, batch_size * processes
        return count // at_once if self.drop_last else -(-count // at_once)

    def check(self, labels: Tensor, processes: int, batch_size: int) -> None:
        """Check that images can be drawn like this.

        Raises:
            UserError: there is one class only, or too few images for a batch.
        """
        if self.class_balanced and len(labels.unique()) < 2:
            raise UserError(
                "data.class_balanced draws as many images of each class, but the training images are of one class: "
                "leave it out.",
                2,
            )
        if self.batches(len(labels), processes, batch_size) == 0:
            of_all = f" of all {processes} processes" if processes > 1 else ""
            raise UserError(
                f"data.drop_last leaves nothing to train on: there are {len(labels)} training images, and a batch"
                f"{of_all} has {batch_size * processes}. Lower data.batch_size, or leave drop_last out.",
                2,
            )


def _balanced(labels: Tensor, generator: torch.Generator) -> Tensor:
    """As many positions as there are labels, (N,): of each class N / C of them, rounded up for some classes by chance.

    A class of fewer images has each of them several times, as often as any other of the class or once more; one of more
    images has others in each epoch.
    """
    count, known = len(labels), labels.unique()
    quotas = torch.full((len(known),), count // len(known))
    quotas[torch.randperm(len(known), generator=generator)[: count % len(known)]] += 1
    shuffled = torch.randperm(count, generator=generator)
    drawn = []
    for label, quota in zip(known, quotas.tolist(), strict=True):
        members = shuffled[labels[shuffled] == label]
        drawn.append(members[torch.arange(quota) % len(members)])
    return torch.cat(drawn)[torch.randperm(count, generator=generator)]

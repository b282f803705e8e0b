"""KL annealing: a weight that rises over the first epochs of a training."""

from encdec.paradigms.base import Paradigm


def kl_weight(paradigm: Paradigm, warm_up: int, beta: float = 1.0) -> float:
    """The weight of the KL: in epoch t = 0, 1, … of a training β · min(1, (t + 1) / (T + 1)), T = `warm_up`; else β.

    So T epochs have a weight below β, and T = 0 switches it off. In evaluation the weight is full, so that the losses
    of all epochs can be compared. It depends on the epoch alone, so a resumed run has the weights of a whole one.

    Source: Bowman et al. 2016, https://arxiv.org/abs/1511.06349 (KL cost annealing); linear in the epochs: Sønderby et
    al. 2016, https://arxiv.org/abs/1602.02282 (warm-up).

    Args:
        paradigm: which trains, or is evaluated.
        warm_up: T, in epochs.
        beta: the full weight.
    """
    return beta * min(1.0, (paradigm.current_epoch + 1) / (warm_up + 1)) if paradigm.training else beta

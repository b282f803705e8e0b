"""Langevin dynamics of latents: a chain of noisy gradient steps, whose long run is a sample of the posterior."""

from collections.abc import Callable

from torch import Tensor

from encdec.objectives.search import gradient_step


def langevin(
    energy: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    step_size: float,
    noise: Callable[[], Tensor],
) -> Tensor:
    """Where z_{t+1} = z_t − (s²/2) ∇ E(z_t) + s e_t ends; each image's chain is on its own.

    As s → 0 and with many steps it is a sample of the density proportional to exp(−E). Like `search` it takes gradients
    of the latents alone, and wherever the caller is; see there for what the energy may read.

    Source: Langevin dynamics as in Han et al. 2017, https://arxiv.org/abs/1606.08571.

    Args:
        energy: E, of latents (B, d) to a value for each image, (B,), in nats.
        start: z_0, (B, d).
        steps: how many.
        step_size: s.
        noise: gives e_t, standard normal, (B, d), at each call.

    Returns:
        The latents, detached, (B, d).
    """
    z = start.detach()
    for _ in range(steps):
        z = gradient_step(energy, z, step_size**2 / 2) + step_size * noise()
    return z

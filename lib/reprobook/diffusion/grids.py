"""Grids of times for samplers, from noise to data: uniform in time, in log signal-to-noise, or Karras'."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.diffusion.schedules import Schedule

__all__ = ["SPACINGS", "time_grid"]

#: How the times of a grid may be spaced.
SPACINGS = ("t", "lambda", "karras")


def time_grid(
    schedule: Schedule,
    steps: int,
    spacing: str = "t",
    *,
    first: float | None = None,
    last: float | None = None,
    rho: float = 7.0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, " num_times"]:
    """Return ``steps + 1`` times that fall from the last to the first.

    Args:
        schedule: of the diffusion.
        steps: how many steps, > 0.
        spacing: ``t``, uniform in time; ``lambda``, uniform in λ = log(α/σ); ``karras``, uniform in
            (σ/α)^(1/ρ), which is that of Karras et al. (2022), Eq. (5), carried over to any schedule.
        first: where the grid ends; by default the schedule's first time.
        last: where it begins; by default the schedule's last time.
        rho: ρ of ``karras``, > 0; large values take smaller steps near the data.
        dtype: double precision by default.
        device: of the result.

    Raises:
        ValueError: for a grid without steps, an unknown spacing, or times in the wrong order.
    """
    first = schedule.first if first is None else first
    last = schedule.last if last is None else last
    if steps < 1 or not first < last:
        raise ValueError(f"a grid needs steps >= 1 and first < last; got {steps} from {last:g} to {first:g}")
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    ends = torch.tensor([last, first], dtype=torch.float64)
    if spacing == "t":
        times = torch.lerp(*ends, share)
    elif spacing == "lambda":
        times = schedule.time_of(torch.lerp(*schedule.lam(ends), share))
    elif spacing == "karras":
        roots = torch.exp(-schedule.lam(ends) / rho)
        times = schedule.time_of(-rho * torch.lerp(*roots, share).log())
    else:
        raise ValueError(f"unknown spacing '{spacing}': choose one of {', '.join(SPACINGS)}")
    times[0], times[-1] = ends  # to the last bit
    return times.to(dtype=dtype or torch.float64, device=device)

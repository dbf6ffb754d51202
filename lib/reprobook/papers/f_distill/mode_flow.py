r"""A student without constraints on the line, and how soon it finds a mode again that it had lost.

The generator is a table: latent z_i has the sample x_i = G(z_i), free to go anywhere. The theorem of Xu, Nie
and Vahdat (arXiv 2502.15681) then says where each sample moves: with the mean over the noise levels of
ω E_ε[h(r) (s_p - s_q)] at x_i + σ ε. Under noise the student is a mixture with one Gaussian a sample, so
nothing needs to be learned. That is the experiment of their Fig. 8 with perfect scores and ratios.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from reprobook.papers.f_distill.divergences import Divergence
from reprobook.papers.f_distill.fits import Levels

__all__ = ["Moment", "skewed_start", "sample_velocity", "sample_flow", "time_to_restore"]

Gaps = Float[Tensor, " B"]
Samples = Float[Tensor, "B num"]


class Moment(NamedTuple):
    """A student after some time: its samples, ``(B, num)``, and the share of them left of 0, ``(B,)``."""

    time: float
    samples: Samples
    share: Gaps


def skewed_start(gap: Gaps, lost: Sequence[float], num: int = 40) -> Samples:
    """Return samples at evenly spaced quantiles of both modes, a share of them in the one at -a (Fig. 8).

    Args:
        gap: a, in units of the modes' width, ``(B,)``.
        lost: how much of each student is left in the mode at -a, ``B`` numbers in [0, 1]; rounded to samples.
        num: samples of a student.
    """
    rows = []
    for a, share in zip(gap.tolist(), lost, strict=True):
        few = round(share * num)
        left, right = (
            torch.special.ndtri((torch.arange(n, dtype=gap.dtype) + 0.5) / n) for n in (few, num - few)
        )
        rows.append(torch.cat([left - a, right + a]))
    return torch.stack(rows)


def sample_velocity(
    divergence: Divergence,
    gap: Gaps,
    samples: Samples,
    levels: Levels,
    *,
    mean_one: bool,
    points: int = 121,
) -> Samples:
    """Return the mean over levels of ω E_ε[h (s_p - s_q)], at every sample (the theorem).

    That is minus num times the gradient of the mean of ω D_f in that sample.

    Args:
        divergence: whose weight h is taken.
        gap: a; the teacher has equal modes of width one at -a and a.
        samples: x_i.
        levels: of noise, all > 0 and not much smaller than the samples' distances.
        mean_one: divide h by its mean over q at every level, the paper's second normalisation.
        points: of the grid, which reaches 5.5 standard deviations beyond the modes.
    """
    noise, a = levels.sigma.square()[:, None], gap[:, None, None]
    tau = 1 + noise
    reach = a + 5.5 * tau.sqrt()
    y, step = torch.linspace(-1, 1, points, dtype=gap.dtype) * reach, 2 * reach / (points - 1)
    odds = 2 * a * y / tau
    log_p = -((y + a).square() / tau + torch.log(8 * math.pi * tau)) / 2 + F.softplus(odds)
    far = samples[:, None, None] - y[..., None]
    around = torch.exp(-far.square() / (2 * noise[..., None])) / (2 * math.pi * noise[..., None]).sqrt()
    q = around.mean(-1).clamp(min=1e-300)
    h = divergence.weight((log_p - q.log()).clamp(-100, 100).exp())
    if mean_one:
        h = h / (q * h * step).sum(-1, keepdim=True)
    score_gap = (a * torch.tanh(odds / 2) - y) / tau - (around * far).mean(-1) / (q * noise)
    push = h * score_gap * step * levels.weight[:, None]
    return torch.einsum("blgn,blg->bn", around, push) / len(levels.sigma)


def sample_flow(
    divergence: Divergence,
    gap: Gaps,
    samples: Samples,
    levels: Levels,
    *,
    mean_one: bool,
    duration: float,
    step: float = 0.1,
) -> Iterator[Moment]:
    """Move the samples by Euler's method and yield every moment (Fig. 8); arguments as of the velocity.

    Args:
        duration: how long; with equal ``step`` this is the number of updates at an equal learning rate.
        step: of time, small against one over the largest weight.
    """
    for k in range(round(duration / step)):
        velocity = sample_velocity(divergence, gap, samples, levels, mean_one=mean_one)
        samples = samples + step * velocity
        yield Moment((k + 1) * step, samples, (samples < 0).to(gap.dtype).mean(1))


def time_to_restore(times: Sequence[float], shares: Float[Tensor, "moments B"], within: float = 0.1) -> Gaps:
    """Return when the share of the lost mode came to within a tenth of a half (Fig. 8), or the last time.

    Args:
        times: of the moments.
        shares: of samples left of 0, at each.
        within: relative.
    """
    back = shares >= 0.5 * (1 - within) - 1e-9
    first = torch.where(back.any(0), back.to(torch.int8).argmax(0), len(times) - 1)
    return torch.as_tensor(times, dtype=shares.dtype)[first]

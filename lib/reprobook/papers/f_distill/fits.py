r"""Which modes survive: students so small that the best one is found exactly, divergence by divergence.

Xu, Nie and Vahdat (arXiv 2502.15681, Table 6) call a divergence mode-seeking or not, saturating or not, of
low or high variance. Here each word of the paper gets a definition that a computer can check. A Gaussian
student N(m, s²) faces two modes of width one at -a and a; integrals are sums over a fine grid, minimisers
come from Newton's method from several starts, and nothing is random.

==================  ==================================================================================
symbol              meaning
==================  ==================================================================================
:math:`a`           gap: half the distance between the two modes, in units of their width
:math:`w`           share of the teacher's mass in the mode at :math:`a`
:math:`m, s`        mean and width of the student before noise
:math:`\sigma_l`    noise levels of the objective :math:`\sum_l \omega_l D_f(p_l \| q_l)`
:math:`\ell`        :math:`\log r = \log p - \log q`
==================  ==================================================================================
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from reprobook.diffusion.mixtures import Mixture
from reprobook.papers.f_distill.divergences import Divergence

__all__ = [
    "Fit",
    "Levels",
    "NO_NOISE",
    "levels_of_algorithm",
    "divergence_integrand",
    "weighted_density",
    "loss",
    "loss_gradient",
    "best_gaussian",
    "curvature_across",
    "last_covering_gap",
    "mass_on_left",
    "price_of_one_mode",
    "jeffreys_far_fit",
    "mean_gradient",
    "normalised_variance",
    "gap_and_ratio",
]

Batch = Float[Tensor, " B"]
Grid = Float[Tensor, "*shape"]
FAR = 100.0  # |log r| beyond which a generator is continued by its tangent in log r


class Levels(NamedTuple):
    """Noise levels σ and the weight ω of each in the objective, ``(L,)`` both."""

    sigma: Float[Tensor, " L"]
    weight: Float[Tensor, " L"]


#: The plain divergence, without noise.
NO_NOISE = Levels(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))


class Fit(NamedTuple):
    """A student for each gap: mean, width and divergence, ``(B,)`` each."""

    mean: Batch
    std: Batch
    value: Batch


def levels_of_algorithm(lowest: float, highest: float, num: int) -> Levels:
    """Return levels, even in log σ, with the weight that a step of the algorithm gives each, for α = 1.

    The step of the paper's algorithm is h (x̂_fake - x̂_teacher) over a scale; the difference of denoisers is
    σ² times that of scores, and the scale is taken as σ / √(1 + σ²). So ω = σ √(1 + σ²).
    """
    sigma = torch.logspace(math.log10(lowest), math.log10(highest), num, dtype=torch.float64)
    return Levels(sigma, sigma * (1 + sigma.square()).sqrt())


# --------------------------------------------------------------------------- integrals on the line


def divergence_integrand(divergence: Divergence, log_p: Grid, log_q: Grid) -> Grid:
    """Return q f(p/q), the integrand of D_f in Table 1 of the paper, without overflow in the tails.

    Where r <= 1 it is q f(r), elsewhere p f(r)/r. As r goes to 0 the first, and as r goes to infinity the
    second, becomes affine in log r for all six, so beyond |log r| = 100 tangents take over.
    """
    ell = log_p - log_q
    r = ell.clamp(-FAR, FAR).exp()
    beyond = ell - ell.clamp(-FAR, FAR)
    f, slope = divergence.f(r), divergence.slope(r)
    below = f + r * slope * beyond
    above = f / r + (slope - f / r) * beyond
    return torch.where(ell <= 0, log_q.exp() * below, log_p.exp() * above)


def weighted_density(divergence: Divergence, log_p: Grid, log_q: Grid) -> Grid:
    """Return the paper's q h(r), the density under the theorem's integral, without overflow in the tails."""
    ell = log_p - log_q
    r = ell.clamp(-FAR, FAR).exp()
    h = divergence.weight(r)
    return torch.where(ell <= 0, log_q.exp() * h, log_p.exp() * (h / r))


class _Scene(NamedTuple):
    """Teacher and student under noise on a grid, ``(B, L, G)``; the student's variance is ``(B, L, 1)``."""

    x: Tensor
    step: Tensor
    log_p: Tensor
    log_q: Tensor
    score_gap: Tensor
    variance: Tensor


def _on_grid(gap: Batch, share: float, mean: Batch, log_std: Batch, levels: Levels, points: int) -> _Scene:
    """Evaluate both laws on x = sinh(u), fine in the middle, where the teacher's score turns."""
    noise = levels.sigma.square()[:, None]
    a, m = gap[:, None, None], mean[:, None, None]
    tau, variance = 1 + noise, (2 * log_std).exp()[:, None, None] + noise
    reach = (torch.maximum(a, m.abs()) + 8.5 * torch.maximum(variance, tau).sqrt()).detach().asinh()
    u = torch.linspace(-1, 1, points, dtype=gap.dtype, device=gap.device) * reach
    x = u.sinh()
    step = u.cosh() * 2 * reach / (points - 1)
    odds = 2 * a * x / tau + math.log(share / (1 - share))
    log_p = _log_normal(x + a, tau) + math.log(1 - share) + F.softplus(odds)
    score_p = (a * torch.tanh(odds / 2) - x) / tau
    return _Scene(x, step, log_p, _log_normal(x - m, variance), score_p + (x - m) / variance, variance)


def _log_normal(x: Tensor, variance: Tensor) -> Tensor:
    return -(x.square() / variance + torch.log(2 * math.pi * variance)) / 2


def loss(
    divergence: Divergence,
    gap: Batch,
    mean: Batch,
    log_std: Batch,
    share: float = 0.5,
    levels: Levels = NO_NOISE,
    points: int = 401,
) -> Batch:
    """Return Σ ω D_f(p_σ‖q_σ), with D_f as in the paper's Table 1, for each gap.

    Args:
        divergence: one of the six, or another whose f is affine in log r at both ends.
        gap: a >= 0, ``(B,)``; modes of width one stand at -a and a.
        mean: m of the student, ``(B,)``.
        log_std: log s of the student, ``(B,)``.
        share: mass of the mode at a, in (0, 1).
        levels: of noise; the student's variance under noise is s² + σ².
        points: of the grid.
    """
    on = _on_grid(gap, share, mean, log_std, levels, points)
    each = (divergence_integrand(divergence, on.log_p, on.log_q) * on.step).sum(-1)
    return (each * levels.weight).sum(-1)


def loss_gradient(
    divergence: Divergence,
    gap: Batch,
    mean: Batch,
    log_std: Batch,
    share: float = 0.5,
    levels: Levels = NO_NOISE,
    points: int = 401,
) -> Float[Tensor, "B 2"]:
    """Return the gradient of :func:`loss` in m and log s by the theorem, -E[h(r) (s_p - s_q) ∂G/∂θ].

    The student is G(z) = m + s z, so ∂G/∂m = 1 and ∂G/∂log s = s z, whose mean given the noisy sample x is
    s² (x - m) / (s² + σ²). Arguments as of :func:`loss`.
    """
    on = _on_grid(gap, share, mean, log_std, levels, points)
    pull = weighted_density(divergence, on.log_p, on.log_q) * on.score_gap * on.step
    pull = pull * levels.weight[:, None]
    stretch = (2 * log_std).exp()[:, None, None] / on.variance * (on.x - mean[:, None, None])
    return -torch.stack([pull.sum((1, 2)), (pull * stretch).sum((1, 2))], 1)


# --------------------------------------------------------------------------- the best Gaussian


def best_gaussian(
    divergence: Divergence,
    gap: Batch,
    share: float = 0.5,
    levels: Levels = NO_NOISE,
    *,
    held: Batch | None = None,
    steps: int = 20,
    points: int = 401,
) -> Fit:
    """Return the student of least divergence for each gap, the best that Newton's method finds (Table 1).

    It starts between the modes and on either of them, narrow and wide. Other arguments as of :func:`loss`.

    Args:
        held: means to be kept, ``(B,)``, so that only the width is fitted; with zeros the symmetric student.
        steps: of Newton's method; the Hessian is made positive, and steps are cut.
    """
    zero, wide = torch.zeros_like(gap), (1 + gap.square()).log() / 2
    if held is None:
        leaning = (1 + math.sqrt(2) * gap).log() / 2
        starts = ((zero, wide), (gap, zero), (-gap, zero), (gap, leaning), (gap / 2, wide))
    else:
        starts = ((held, wide), (held, zero))
    a, m, v = (torch.cat(part) for part in zip(*((gap, *start) for start in starts), strict=True))
    for _ in range(steps):
        move = _newton_step(divergence, a, m, v, share, levels, points, held is not None)
        m, v = m + move[:, 0], v + move[:, 1]
    value = loss(divergence, a, m, v, share, levels, points).reshape(len(starts), -1)
    best = (value + 1e-10 * torch.arange(len(starts), dtype=value.dtype)[:, None]).argmin(0, keepdim=True)
    m, v, value = (part.reshape(len(starts), -1).gather(0, best)[0] for part in (m, v, value))
    return Fit(m, v.exp(), value)


def _newton_step(divergence, gap, mean, log_std, share, levels, points, fixed) -> Float[Tensor, "B 2"]:
    """Return a step against the gradient, by the Hessian with its eigenvalues made positive."""

    def gradient(m: Tensor, v: Tensor) -> Tensor:
        return loss_gradient(divergence, gap, m, v, share, levels, points)

    g, eps = gradient(mean, log_std), 1e-4
    across = (gradient(mean + eps, log_std) - gradient(mean - eps, log_std)) / (2 * eps)
    along = (gradient(mean, log_std + eps) - gradient(mean, log_std - eps)) / (2 * eps)
    if fixed:
        g, along = (part * part.new_tensor([0.0, 1.0]) for part in (g, along))
        across = across.new_tensor([1.0, 0.0]).expand_as(across)
    hessian = torch.stack([across, along], 1)
    values, axes = torch.linalg.eigh((hessian + hessian.mT) / 2)
    inside = (axes.mT @ g[..., None])[..., 0] / values.abs().clamp(min=1e-9)
    step = -(axes @ inside[..., None])[..., 0]
    limit = torch.stack([0.5 * log_std.exp(), torch.full_like(log_std, 0.5)], 1)
    return step * (limit / step.abs().clamp(min=1e-30)).amin(1, keepdim=True).clamp(max=1)


def curvature_across(
    divergence: Divergence, gap: Batch, fit: Fit, share: float = 0.5, levels: Levels = NO_NOISE
) -> Batch:
    """Return Σ ω E_q[h(r) (x - m)²] / (s² + σ²)² > 0, which is ∂²/∂m² of :func:`loss` where ∂/∂s vanishes.

    Derived with the theorem's h: under a Gaussian student ∂²q/∂m² is twice ∂q/∂s², so the part of the second
    derivative that could be negative is the derivative in s², and zero at a student of the best width.
    """
    on = _on_grid(gap, share, fit.mean, fit.std.log(), levels, 801)
    square = ((on.x - fit.mean[:, None, None]) / on.variance).square()
    return (weighted_density(divergence, on.log_p, on.log_q) * square * on.step).sum(-1) @ levels.weight


def last_covering_gap(
    divergence: Divergence,
    levels: Levels = NO_NOISE,
    *,
    first: float = 1.0,
    last: float = 24.0,
    precision: float = 1e-3,
    points: int = 401,
) -> float:
    """Return the gap at which the best student leaves the middle of two equal modes, or infinity (Table 6).

    Searched on nine gaps from ``first`` to ``last``, then on nine between those where it changes, and so on,
    to a relative ``precision``.
    """
    while True:
        gaps = torch.logspace(math.log10(first), math.log10(last), 9, dtype=torch.float64)
        left = best_gaussian(divergence, gaps, levels=levels, points=points).mean.abs() > 1e-2
        if not left.any():
            return math.inf
        at = int(left.to(torch.int8).argmax())
        first, last = gaps[max(at - 1, 0)].item(), gaps[at].item()
        if at == 0 or last - first < precision * first:
            return math.sqrt(first * last)


def mass_on_left(fit: Fit) -> Batch:
    """Return how much of each student lies left of 0, where half of the teacher of Table 1's test does."""
    return torch.special.ndtr(-fit.mean / fit.std)


# --------------------------------------------------------------------------- closed forms


def price_of_one_mode(divergence: Divergence, share: float) -> float:
    """Return f(w) + (1 - w) f'(∞), what a student pays that sits on one of two distant modes (from Table 1).

    There r = w wherever the student is, and where only the teacher is, q f(p/q) tends to p f'(∞). Infinite
    where the slope grows without limit.
    """
    r = torch.tensor([share, 1e14, 1e15], dtype=torch.float64)
    f, slope = divergence.f(r), divergence.slope(r)
    if slope[2] - slope[1] > 1:
        return math.inf
    return (f[0] + (1 - share) * slope[2]).item()


def jeffreys_far_fit(gap: Batch, steps: int = 60) -> tuple[Batch, Batch]:
    """Return mean and width of Jeffreys' best Gaussian (last row of Table 1) where the gap is large.

    δ inside the mode, δ = a / (1 + s²), with s⁴ = 1 + δ²/2 + (2a - δ)²/2, by repeated insertion; the
    student's tail beyond the middle is neglected.
    """
    square = math.sqrt(2) * gap
    for _ in range(steps):
        inside = gap / (1 + square)
        square = (1 + inside.square() / 2 + (2 * gap - inside).square() / 2).sqrt()
    return gap - gap / (1 + square), square.sqrt()


def mean_gradient(divergence: Divergence, distance: Batch) -> Batch:
    """Return ∂D_f/∂d for unit Gaussians at distance d, which is d E_q[h(r)] (the theorem).

    It is integrated round the middle between the two, where the density q h of saturating ones lies.
    """
    x = torch.linspace(-40, 40, 4001, dtype=distance.dtype, device=distance.device)
    half = distance[:, None] / 2
    one = torch.ones((), dtype=x.dtype, device=x.device)
    held = weighted_density(divergence, _log_normal(x + half, one), _log_normal(x - half, one))
    return distance * held.sum(1) * (x[1] - x[0])


def normalised_variance(
    divergence: Divergence, teacher: Float[Tensor, "*batch K"], student: Float[Tensor, "*batch K"]
) -> Float[Tensor, "*batch"]:
    """Return Var_q[h] / E_q[h]², what the paper's Fig. 4a plots, for modes that do not overlap.

    The ratio is then constant on each mode, the quotient of the two shares, so both moments are sums.
    """
    h = divergence.weight(teacher / student)
    mean = (student * h).sum(-1)
    return (student * h.square()).sum(-1) / mean.square() - 1


# --------------------------------------------------------------------------- score difference and weight


def gap_and_ratio(
    teacher: Mixture, student: Mixture, x: Float[Tensor, "N dim"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Return ‖s_p - s_q‖ and r = p/q at points, the two things that the paper's Figs. 2 and 5 compare."""
    gap = (teacher.score(x) - student.score(x)).norm(dim=-1)
    return gap, (teacher.log_density(x) - student.log_density(x)).exp()

r"""Two biases of equilibrium propagation, of unequal ways and of finite nudges, where they can be computed.

Theory for the paper of Laborieux and Zenke (arXiv 2309.02214) on networks so small that the Jacobian
:math:`J = S + A` of the dynamics in activities is a matrix in memory. With :math:`g` the slope of the loss,

* :math:`d_\beta r = -J^{-1} g` and :math:`\delta = -J^{-\top} g`, so :math:`d_\beta r = J^{-1} J^\top \delta
  = (1 + K)^{-1}(1 - K)\,\delta` with :math:`K = S^{-1} A`, a Cayley transform: a rotation in the geometry of
  :math:`-S`;
* the settled state is analytic in the nudge up to the nearest :math:`\beta` where
  :math:`J + \beta\,\nabla^2 L` is singular, the radius within which nudges on a circle find the derivative.

States of all layers stand side by side here, ``(M, B, N)``; see :func:`~.errors.flatten`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float, Shaped
from torch import Tensor

from reprobook.papers.equilibrium_propagation.errors import flatten
from reprobook.papers.equilibrium_propagation.homeostasis import penalty_slope
from reprobook.papers.equilibrium_propagation.layered import Layered
from reprobook.papers.equilibrium_propagation.relaxation import Layers, loss_slope, readout

__all__ = [
    "unflatten",
    "ways_matrix",
    "loss_slope_everywhere",
    "both_errors",
    "parts",
    "first_order",
    "turning",
    "inner",
    "nudged_balance",
    "settle_under",
    "follow",
    "taylor",
    "mean_over_circle",
    "nearest_by_growth",
    "Fold",
    "fold_near",
    "estimate_variance",
    "homeostasis_alone",
    "orbit_response",
    "interleave",
]


def unflatten(net: Layered, values: Shaped[Tensor, "M B N"]) -> Layers:
    """Return the layers 1 to L of what :func:`~.errors.flatten` put side by side."""
    return list(values.split(list(net.wiring.sizes[1:]), -1))


def ways_matrix(net: Layered) -> Float[Tensor, "M N N"]:
    """Return W, all ways between neurons that settle, as one matrix: Eq. H(r) = W r + drive."""
    size, like = sum(net.wiring.sizes[1:]), net.weights["readout"]
    basis = torch.eye(size, dtype=like.dtype, device=like.device).expand(len(like), size, size)
    layers = unflatten(net, basis)
    return flatten(net.push(layers, layers)).mT


def loss_slope_everywhere(net: Layered, r: Layers, target: Float[Tensor, "M B C"]) -> Shaped[Tensor, "M B N"]:
    """Return g = dL/dr, which is zero but for the last layer (the nudge of the paper)."""
    return flatten([*(torch.zeros_like(part) for part in r[:-1]), loss_slope(net, r, target)])


# ------------------------------------------------------------------------------- unequal ways


def both_errors(
    J: Float[Tensor, "M B N N"], g: Float[Tensor, "M B N"]
) -> tuple[Float[Tensor, "M B N"], Float[Tensor, "M B N"]]:
    """Return d_β r = -J⁻¹g and δ = -J⁻ᵀg by solving the linear equations of the paper's two theories."""
    solved = [-torch.linalg.solve(matrix, g[..., None])[..., 0] for matrix in (J, J.mT)]
    return solved[0], solved[1]


def parts(J: Float[Tensor, "*batch N N"]) -> tuple[Float[Tensor, "*batch N N"], Float[Tensor, "*batch N N"]]:
    """Return the symmetric and the antisymmetric part, J = S + A (the paper's decomposition)."""
    return (J + J.mT) / 2, (J - J.mT) / 2


def first_order(J: Float[Tensor, "M B N N"], delta: Float[Tensor, "M B N"]) -> Float[Tensor, "M B N"]:
    """Return δ - 2S⁻¹Aδ, the paper's expansion of d_β r; what it leaves out is 2S⁻¹AJ⁻¹Aδ exactly."""
    S, A = parts(J)
    return delta - 2 * torch.linalg.solve(S, A @ delta[..., None])[..., 0]


def turning(J: Float[Tensor, "M B N N"]) -> Float[Tensor, "M B"]:
    """Return μ, the largest singular value of (-S)^(-1/2) A (-S)^(-1/2); infinite where -S is not positive.

    The two errors of the paper are at most 2 arctan μ apart in the geometry of -S, and the series of d_β r
    in powers of A converges if μ < 1.
    """
    S, A = parts(J)
    root, failed = torch.linalg.cholesky_ex(-S)
    half = torch.linalg.solve_triangular(root, A, upper=False)
    both = torch.linalg.solve_triangular(root, half.mT, upper=False)
    largest = torch.linalg.matrix_norm(torch.where(failed[..., None, None] > 0, 0.0, both), 2)
    return torch.where(failed > 0, torch.inf, largest)


def inner(
    a: Float[Tensor, "M B N"], b: Float[Tensor, "M B N"], metric: Float[Tensor, "M B N N"] | None = None
) -> Float[Tensor, "M B"]:
    """Return the inner product of two errors, plain or aᵀ·metric·b (for the paper's cosines)."""
    return (a * (b if metric is None else (metric @ b[..., None])[..., 0])).sum(-1)


# ------------------------------------------------------------------------------- finite nudges


def nudged_balance(
    net: Layered, x: Float[Tensor, "M B D"], target: Float[Tensor, "M B C"], u: Tensor, beta: Tensor
) -> tuple[Complex[Tensor, "M B N"], Complex[Tensor, "M B N N"]]:
    """Return H(φ(u)) + β dL/dr - u and its derivative by u, (W + β ∇²L) diag φ′ - 1 (the paper's dynamics).

    Args:
        net, x, target: as in :func:`~.relaxation.relax`.
        u: states, complex ``(M, B, N)``.
        beta: a nudge of its own for every input, complex ``(M, B)``.
    """
    layers = unflatten(net, u)
    r = [net.phi.value(layer) for layer in layers]
    pull = loss_slope_everywhere(net, r, target)
    balance = flatten(net.received(net.drive(x), r)) + beta[..., None] * pull - u
    p, read = readout(net, r), net.weights["readout"].to(u.dtype)
    curvature = read.mT[:, None] @ (torch.diag_embed(p) - p[..., :, None] * p[..., None, :]) @ read[:, None]
    matrix, n = ways_matrix(net).to(u.dtype)[:, None].repeat(1, u.shape[1], 1, 1), layers[-1].shape[-1]
    matrix[..., -n:, -n:] += beta[..., None, None] * curvature
    eye = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
    return balance, matrix * net.phi.slope(u)[..., None, :] - eye


def settle_under(
    net: Layered,
    x: Float[Tensor, "M B D"],
    target: Float[Tensor, "M B C"],
    u: Shaped[Tensor, "M B N"],
    beta: Complex[Tensor, "M B"],
    steps: int,
) -> tuple[Complex[Tensor, "M B N"], Float[Tensor, "M B"]]:
    """Return activities after the paper's synchronous steps, each input under a nudge of its own.

    Also returned is the largest change of an activity in the last step, a large number where states blew up.
    """
    drive, r = net.drive(x), unflatten(net, net.phi.value(u.to(beta.dtype)))
    for _ in range(steps):
        sums, last = net.received(drive, r), r
        sums[-1] = sums[-1] + beta[..., None] * loss_slope(net, r, target)
        r = [net.phi.value(part) for part in sums]
    moved = (flatten(r) - flatten(last)).abs().amax(-1)
    return flatten(r), moved.nan_to_num(1e3, posinf=1e3)


def follow(
    net: Layered,
    x: Float[Tensor, "M B D"],
    target: Float[Tensor, "M B C"],
    u: Shaped[Tensor, "M B N"],
    beta: Complex[Tensor, "M B"],
    *,
    stages: int = 5,
    corrections: int = 3,
) -> Complex[Tensor, "M B N"]:
    """Return the states at rest under given nudges, followed from the free state in a straight line of β.

    Newton's method, so it does not matter whether the dynamics of the paper would settle there.

    Args:
        net, x, target: as in :func:`nudged_balance`.
        u: the free states.
        beta: where to go.
        stages: points on the line.
        corrections: steps of Newton's method at each; twice as many at the last.
    """
    u = u.to(beta.dtype)
    for stage in range(1, stages + 1):
        for _ in range(corrections * (1 + (stage == stages))):
            balance, matrix = nudged_balance(net, x, target, u, beta * (stage / stages))
            u = u - torch.linalg.solve(matrix, balance[..., None])[..., 0]
    return u


def taylor(
    values: Complex[Tensor, "n M B N"], radius: Float[Tensor, "M B"], highest: int
) -> Complex[Tensor, "k M B N"]:
    """Return Taylor coefficients 0 to ``highest`` from n equally spaced values on a circle (Cauchy, Eq.)."""
    orders = torch.arange(highest + 1, device=radius.device)[:, None, None, None]
    return (torch.fft.fft(values, dim=0) / len(values))[: highest + 1] / radius[..., None] ** orders


def mean_over_circle(
    values: Complex[Tensor, "n M B N"], radius: Float[Tensor, "M B"]
) -> Complex[Tensor, "M B N"]:
    """Return (1/N) Σ r(β_k)/β_k over the N values on a circle, the derivative as the paper estimates it."""
    steps = torch.arange(len(values), dtype=radius.dtype, device=radius.device)[:, None, None, None]
    return (values * torch.exp(-2j * math.pi / len(values) * steps)).mean(0) / radius[..., None]


def nearest_by_growth(
    coefficients: Complex[Tensor, "k M B N"], first: int, last: int, terms: int = 6
) -> Complex[Tensor, "M B terms"]:
    """Return nudges at which the settled state branches, the nearest first, from its Taylor coefficients.

    Near square-root branch points n^(3/2) aₙ obeys a linear recurrence for large n, whose roots are their
    inverses (Darboux); it is fitted over all neurons. The first modulus is the radius up to which the
    paper's finite nudges can be exact, the others are rough.

    Args:
        coefficients: from :func:`taylor`.
        first, last: which coefficients to use.
        terms: of the recurrence; two for each pair of conjugate points.
    """
    scaled = coefficients.real
    orders = torch.arange(len(scaled), dtype=scaled.dtype, device=scaled.device)[:, None, None, None]
    scaled = scaled * orders**1.5
    unit = (scaled[first].norm(dim=-1) / scaled[last].norm(dim=-1)) ** (1 / (last - first))
    scaled = (scaled * unit[..., None] ** orders)[first : last + 1].movedim(0, -1)  # well scaled for the fit
    windows = scaled.unfold(-1, terms + 1, 1).flatten(-3, -2)
    known, following = windows[..., :-1], windows[..., -1:]
    recurrence = torch.linalg.lstsq(known, following).solution[..., 0]
    companion = torch.diag_embed(torch.ones_like(recurrence[..., 1:]), offset=1)
    companion[..., -1, :] = recurrence
    inverse = torch.linalg.eigvals(companion)
    inverse = inverse.gather(-1, inverse.abs().argsort(-1, descending=True))
    return unit[..., None] / inverse


class Fold(NamedTuple):
    """A nudge at which two states at rest meet and the Jacobian is singular.

    Attributes:
        beta: the nudge, ``(M, B)``.
        u: the state, ``(M, B, N)``.
        smallest: smallest singular value of the derivative there, ``(M, B)``.
    """

    beta: Complex[Tensor, "M B"]
    u: Complex[Tensor, "M B N"]
    smallest: Float[Tensor, "M B"]


def fold_near(
    net: Layered,
    x: Float[Tensor, "M B D"],
    target: Float[Tensor, "M B C"],
    u: Complex[Tensor, "M B N"],
    beta: Complex[Tensor, "M B"],
    guess: Complex[Tensor, "M B"],
    iterations: int = 12,
) -> Fold:
    """Return the fold near a guess, where the branch of the paper's settled state ends.

    At a fold the nudge is a smooth function of how far the state has moved along the direction c that goes
    soft, s = cᵀu, with β′(s) = 0. The pair (u, β) is corrected at fixed s, and s by the secant method.

    Args:
        net, x, target: as in :func:`nudged_balance`.
        u, beta: a state at rest on the branch, near the fold, and its nudge.
        guess: of the nudge of the fold.
        iterations: of the secant method.
    """
    c = torch.linalg.svd(nudged_balance(net, x, target, u, beta)[1])[2][..., -1, :]
    s, before = (c * u).sum(-1), None
    for _ in range(iterations):
        for _ in range(4):
            balance, bordered = _bordered(net, x, target, u, beta, c)
            wrong = torch.cat([balance, ((c * u).sum(-1) - s)[..., None]], -1)
            move = torch.linalg.solve(bordered, wrong[..., None])[..., 0]
            u, beta = u - move[..., :-1], beta - move[..., -1]
        bordered = _bordered(net, x, target, u, beta, c)[1]
        along = torch.zeros_like(wrong)
        along[..., -1] = 1
        slope = torch.linalg.solve(bordered, along[..., None])[..., -1, 0]  # β′(s)
        if before is None:
            first = slope
            change = 2 * (guess - beta) / slope  # as if β were quadratic in s
        else:
            bend = slope - before[1]
            there = slope.abs() < 1e-10 * first.abs()
            change = torch.where(there, 0, -slope * (s - before[0]) / torch.where(there, 1, bend))
        before, s = (s, slope), s + change
    return Fold(beta, u, torch.linalg.svdvals(nudged_balance(net, x, target, u, beta)[1])[..., -1])


def _bordered(
    net: Layered, x: Tensor, target: Tensor, u: Tensor, beta: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the balance, and the derivative of (balance, cᵀu) by (u, β)."""
    balance, matrix = nudged_balance(net, x, target, u, beta)
    r = [net.phi.value(layer) for layer in unflatten(net, u)]
    column = loss_slope_everywhere(net, r, target)[..., None]
    row = torch.cat([c, torch.zeros_like(c[..., :1])], -1)[..., None, :]
    return balance, torch.cat([torch.cat([matrix, column], -1), row], -2)


# ------------------------------------------------------------------------------- homeostasis and time


def estimate_variance(J: Float[Tensor, "*batch N N"]) -> Float[Tensor, "*batch"]:
    """Return the variance of ‖Jε‖² - εᵀJ²ε over normal ε, 2‖SA - AS - 2A²‖² (of the paper's estimate)."""
    S, A = parts(J)
    return 2 * (S @ A - A @ S - 2 * A @ A).square().sum((-2, -1))


def homeostasis_alone(net: Layered, rate: float, steps: int) -> Iterator[Layered]:
    """Yield the network after every step of gradient descent on the homeostatic loss and nothing else.

    A pair's difference W - Bᵀ is multiplied by 1 - 4·rate, a way without an opposite by 1 - 2·rate; the
    paper's rate is learning rate times λ over the number of neurons.
    """
    for _ in range(steps):
        slopes = penalty_slope(net)
        moved = {name: w - rate * slopes[name] if name in slopes else w for name, w in net.weights.items()}
        net = Layered(net.wiring, moved)
        yield net


def orbit_response(
    net: Layered, u: Float[Tensor, "M B N"], g: Float[Tensor, "M B N"], period: int
) -> Float[Tensor, "M B N"]:
    """Return what the paper's continuous-time estimate is for small nudges, Re (1/φ′ - W e^(-iω))⁻¹ g.

    Every step hears activities of the step before, which lag by the angle ω = 2π/period.

    Args:
        net: with its weights.
        u: free states.
        g: slope of the loss, from :func:`loss_slope_everywhere`.
        period: steps of a turn.
    """
    late = complex(math.cos(2 * math.pi / period), -math.sin(2 * math.pi / period))
    matrix = torch.diag_embed(1 / net.phi.slope(u)) - late * ways_matrix(net)[:, None]
    return torch.linalg.solve(matrix, g[..., None].to(matrix.dtype))[..., 0].real


def interleave(now: Layers, later: Layers) -> Layers:
    """Return odd layers of one moment and even layers of another, counted from 1.

    In the paper's layered networks, stepped all at once, these two never meet the other two.
    """
    return [now[k] if k % 2 == 0 else later[k] for k in range(len(now))]

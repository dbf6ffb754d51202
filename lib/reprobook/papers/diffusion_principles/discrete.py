r"""Diffusion over finitely many states: kernels, their reversal by Bayes' rule, and the master equation.

After the epilogue (Sec. 12) of Lai et al., *The Principles of Diffusion Models* (2025, arXiv 2510.21890), and
Austin et al. (2021). In place of a drift and a noise there is a matrix of rates: in a short time h a state x
becomes y with probability h G(x, y). Distributions are row vectors, so p_k = p_{k-1} Q_k, and in continuous
time dp/dt = p G, the master equation, which is to a chain what the Fokker-Planck equation is to a diffusion.

=======  =====================================================================================
symbol   meaning
=======  =====================================================================================
p_k      distribution after k steps, ``(K,)``
Q_k      forward kernel, row x the law of the next state, ``(K, K)``
R_k      reverse kernel, row x_k the law of x_{k-1}
G        rates, rows with sum 0, nothing negative off the diagonal
=======  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "RATES",
    "kernels",
    "marginals",
    "reverse_kernels",
    "posterior_kernels",
    "mixed_by_posterior",
    "master_equation",
    "reverse_rates",
    "law_at",
    "solve_backwards",
]

Law = Float[Tensor, " K"]
Matrix = Float[Tensor, "K K"]


def _uniform(num: int) -> Matrix:
    """From every state to every other one alike; the last law is uniform."""
    eye = torch.eye(num, dtype=torch.float64)
    return torch.full_like(eye, 1 / num) - eye


def _masking(num: int) -> Matrix:
    """From every state into the last one, the mask, which nothing leaves."""
    rates = -torch.eye(num, dtype=torch.float64)
    rates[:, -1] += 1
    return rates


def _neighbours(num: int) -> Matrix:
    """On a line, to the states beside; the discrete shadow of Gaussian noise."""
    beside = torch.ones(num - 1, dtype=torch.float64)
    rates = torch.diag(beside, 1) + torch.diag(beside, -1)
    return rates - torch.diag(rates.sum(1))


#: Kinds of noise over ``num`` states (Sec. 12): a number of states to the matrix of rates.
RATES: dict[str, Callable[[int], Tensor]] = {
    "uniform": _uniform,
    "masking": _masking,
    "neighbours": _neighbours,
}


# --------------------------------------------------------------------------- in steps


def kernels(rates: Matrix, times: Float[Tensor, " num_times"]) -> Float[Tensor, "num_steps K K"]:
    """Return the forward kernels Q_k = exp((t_k - t_{k-1}) G) between growing times (Sec. 12)."""
    return torch.linalg.matrix_exp(times.diff()[:, None, None] * rates)


def marginals(start: Law, forward: Float[Tensor, "num_steps K K"]) -> Float[Tensor, "num_times K"]:
    """Return p_0 and all p_k = p_{k-1} Q_k (Sec. 12)."""
    laws = [start]
    for kernel in forward:
        laws.append(laws[-1] @ kernel)
    return torch.stack(laws)


def reverse_kernels(start: Law, forward: Float[Tensor, "num_steps K K"]) -> Float[Tensor, "num_steps K K"]:
    """Return R_k(x_{k-1} | x_k) = p_{k-1}(x_{k-1}) Q_k(x_k | x_{k-1}) / p_k(x_k), Bayes' rule (Sec. 12).

    Rows, of x_k, sum to one, and p_k R_k = p_{k-1}. A state of probability zero stays where it is.
    """
    laws = marginals(start, forward)
    joint = laws[:-1, :, None] * forward  # (k, x_{k-1}, x_k)
    return _conditional(joint.mT, laws[1:])


def posterior_kernels(forward: Float[Tensor, "num_steps K K"]) -> Float[Tensor, "num_steps K K K"]:
    """Return the reverse kernels that also know the clean state, indexed (k, x_0, x_k, x_{k-1}) (Sec. 12).

    They are known without the data; training a discrete diffusion fits p(x_0 | x_k) and mixes them by it.
    """
    eye = torch.eye(forward.shape[-1], dtype=forward.dtype)
    from_clean = torch.stack([marginals(row, forward) for row in eye], 1)  # (k, x_0, x_k)
    joint = from_clean[:-1, :, :, None] * forward[:, None]  # (k, x_0, x_{k-1}, x_k)
    return _conditional(joint.mT, from_clean[1:])


def mixed_by_posterior(start: Law, forward: Float[Tensor, "num_steps K K"]) -> Float[Tensor, "num_steps K K"]:
    """Return Σ_{x_0} p(x_0 | x_k) R_k(x_{k-1} | x_k, x_0), of a perfect denoiser (Sec. 12)."""
    eye = torch.eye(len(start), dtype=start.dtype)
    from_clean = torch.stack([marginals(row, forward) for row in eye], 1)[1:]  # (k, x_0, x_k)
    of_clean = _conditional((start[:, None] * from_clean).mT, start @ from_clean)  # (k, x_k, x_0)
    return torch.einsum("kyx,kxyz->kyz", of_clean, posterior_kernels(forward))


def _conditional(joint: Tensor, law: Tensor) -> Tensor:
    """Divide rows of a joint law by the probability of each row; rows of probability zero stay in place."""
    stay = torch.eye(joint.shape[-1], dtype=joint.dtype).expand_as(joint)
    possible = (law > 0)[..., None]
    return torch.where(possible, joint / torch.where(possible, law[..., None], 1), stay)


# --------------------------------------------------------------------------- in continuous time


def master_equation(law: Law, rates: Matrix) -> Law:
    """Return dp/dt = p G (Sec. 12); its entries sum to zero, so mass is conserved."""
    return law @ rates


def law_at(start: Law, rates: Matrix, t: float) -> Law:
    """Return p_t = p_0 exp(t G), the solution of the master equation (Sec. 12)."""
    return start @ torch.linalg.matrix_exp(t * rates)


def reverse_rates(law: Law, rates: Matrix) -> Matrix:
    """Return the rates of the process seen backwards, G(y, x) p(y)/p(x) from x to y ≠ x (Sec. 12).

    The ratios p(y)/p(x) are what a score is to a density; a model of discrete diffusion learns them.

    Args:
        law: p_t, positive.
        rates: G.
    """
    turned = rates.mT * law / law[:, None]
    turned = turned - torch.diag(torch.diagonal(turned))
    return turned - torch.diag(turned.sum(1))


def solve_backwards(
    start: Law, rates: Matrix, times: Float[Tensor, " num_times"]
) -> Float[Tensor, "num_times K"]:
    """Return the laws that the reverse rates lead through from p at the last time (Sec. 12).

    The master equation of the reverse rates, whose ratios are those of p_t, by the classical method of Runge
    and Kutta. Where all is right, the law at each time is p_t.

    Args:
        start: p_0, which gives the ratios.
        rates: G.
        times: falling, > 0.
    """

    def slope(law: Tensor, t: float) -> Tensor:
        return master_equation(law, reverse_rates(law_at(start, rates, t), rates))

    laws = [law_at(start, rates, times[0].item())]
    for t, h in zip(times[:-1].tolist(), (-times.diff()).tolist(), strict=True):
        one = slope(laws[-1], t)
        two = slope(laws[-1] + h / 2 * one, t - h / 2)
        three = slope(laws[-1] + h / 2 * two, t - h / 2)
        four = slope(laws[-1] + h * three, t - h)
        laws.append(laws[-1] + h / 6 * (one + 2 * two + 2 * three + four))
    return torch.stack(laws)

"""The losses of the three views, without sampling: what a theorem calls equal is computed on a line.

Lai, Song, Kim, Mitsufuji and Ermon, *The Principles of Diffusion Models* (arXiv 2510.21890v2), chapters 2, 3,
5 and 6. In one dimension every expectation is an integral over one or two variables, and the trapezoid rule
on evenly spaced nodes is exact to rounding for smooth functions that vanish at both ends. So "equal up to a
constant that does not depend on the network" can be checked as an identity.

========================  ============================================================
``nodes``                 evenly spaced points of the line, ``(N,)``
``network``               any smooth function of x, with parameters of its own
marginal, conditional     a loss against what only the mixture knows, and one against
                          what is known once the clean sample is (Sec. 6.2)
========================  ============================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import MultivariateNormal

from reprobook.diffusion.losses import step_posterior
from reprobook.diffusion.mixtures import Mixture
from reprobook.diffusion.predictions import coefficients
from reprobook.diffusion.schedules import Schedule

__all__ = [
    "PairOfLosses",
    "line",
    "small_network",
    "regression_losses",
    "implicit_score_matching",
    "reverse_kernel_losses",
    "unlike",
    "entropy",
    "chain_gap",
    "LinearGaussian",
    "Encoder",
]

Network = Callable[[Tensor], Tensor]
Nodes = Float[Tensor, " N"]
Scalar = Float[Tensor, ""]


class PairOfLosses(NamedTuple):
    """A loss against the marginal target and one against the conditional target, scalars."""

    marginal: Tensor
    conditional: Tensor


def line(reach: float = 8.0, num: int = 401) -> Nodes:
    """Return evenly spaced nodes from ``-reach`` to ``reach``, in double precision (for Sec. 6.2)."""
    return torch.linspace(-reach, reach, num, dtype=torch.float64)


def small_network(parameters: Float[Tensor, "3 H"], x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return Σ a tanh(b x + c), a smooth stand-in for the networks of the paper.

    Args:
        parameters: rows a, b and c.
        x: points of any shape.
    """
    a, b, c = parameters
    return (a * torch.tanh(b * x[..., None] + c)).sum(-1)


def _kernel(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return N(x_i; mean_j, variance) as a table, ``(N, N)``."""
    return torch.exp(-(x[:, None] - mean).square() / (2 * variance)) / (2 * math.pi * variance).sqrt()


def _density(mixture: Mixture, nodes: Nodes, t: Scalar | None, schedule: Schedule) -> Nodes:
    return mixture.log_density(nodes[:, None], t, schedule).exp()


def regression_losses(
    network: Network, kind: str, mixture: Mixture, t: Scalar, schedule: Schedule, nodes: Nodes
) -> PairOfLosses:
    """Return ½ E‖network - target‖² for the marginal and for the conditional target, Eq. (6.2.5).

    For the score these are the two sides of Theorem 3.3.1 (explicit and denoising score matching), for the
    velocity those of Theorem 5.2.1 (flow matching and conditional flow matching).

    Args:
        network: nodes to predictions.
        kind: what it predicts.
        mixture: the data, on a line.
        t: the time.
        schedule: of the diffusion.
        nodes: where integrals are evaluated, for x_0 and for x_t.
    """
    width, guess = nodes[1] - nodes[0], network(nodes)
    known = mixture.model(schedule, kind)(nodes[:, None], t, kind)[:, 0]
    marginal = (_density(mixture, nodes, t, schedule) * (guess - known).square()).sum() * width

    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    (a, b), noise = coefficients(schedule, t, kind), (nodes[:, None] - alpha * nodes) / sigma
    joint = _kernel(nodes, alpha * nodes, sigma.square()) * _density(mixture, nodes, None, schedule)
    errors = (guess[:, None] - a * nodes - b * noise).square()
    return PairOfLosses(marginal / 2, (joint * errors).sum() * width.square() / 2)


def implicit_score_matching(
    network: Network, mixture: Mixture, t: Scalar, schedule: Schedule, nodes: Nodes
) -> Scalar:
    """Return E[s' + ½ s²], which needs no score at all (Sec. 3.2, after Hyvärinen, 2005).

    Arguments as of :func:`regression_losses`.
    """
    x = nodes.detach().requires_grad_()
    score = network(x)
    (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    return (_density(mixture, nodes, t, schedule) * (slope + score.square() / 2)).sum() * (
        nodes[1] - nodes[0]
    )


def reverse_kernel_losses(
    network: Network, mixture: Mixture, t: Scalar, s: Scalar, schedule: Schedule, nodes: Nodes
) -> PairOfLosses:
    """Return both sides of Theorem 2.2.1: E KL(p(x_t|x_s) ‖ q) and E KL(p(x_t|x_s, x_0) ‖ q), t < s.

    q is the Gaussian about ``network(x_s)`` with the variance that x_0 would leave.

    Args:
        network: x_s to the mean of x_t.
        mixture: the data, on a line.
        t, s: the earlier and the later time.
        schedule: of the diffusion.
        nodes: where integrals are evaluated, for x_0, x_t and x_s.
    """
    area, mean = (nodes[1] - nodes[0]).square(), network(nodes)
    ratio = schedule.alpha(s) / schedule.alpha(t)
    added = schedule.sigma(s).square() - ratio.square() * schedule.sigma(t).square()
    clean, noisy = nodes[None, :].expand(len(nodes), -1), nodes[:, None].expand(-1, len(nodes))
    middle, variance = step_posterior(noisy, clean, t, s, schedule)

    step = _kernel(nodes, ratio * nodes, added) * _density(mixture, nodes, t, schedule)  # (x_s, x_t)
    reverse = step / _density(mixture, nodes, s, schedule)[:, None]
    wanted = (reverse + torch.finfo(reverse.dtype).tiny).log()
    guess = -((nodes - mean[:, None]).square() / variance + (2 * math.pi * variance).log()) / 2
    marginal = (step * (wanted - guess)).sum() * area

    seen = _kernel(nodes, schedule.alpha(s) * nodes, schedule.sigma(s).square())  # (x_s, x_0)
    joint = seen * _density(mixture, nodes, None, schedule)
    return PairOfLosses(marginal, (joint * (middle - mean[:, None]).square()).sum() * area / (2 * variance))


def unlike(
    losses: Callable[[Tensor], tuple[Tensor, Tensor]], candidates: Float[Tensor, " R *shape"]
) -> tuple[float, Float[Tensor, " R"]]:
    """Say how far two losses are from equal up to a constant (Theorems 2.2.1, 3.3.1 and 5.2.1 say they are).

    Args:
        losses: parameters to two losses.
        candidates: several sets of parameters.

    Returns:
        How much the difference of the losses varies over the candidates, as a share of what the first one
        varies; and for each candidate, the distance of the gradients, as a share of the first one's length.
    """
    values, gaps = [], []
    for candidate in candidates:
        theta = candidate.detach().requires_grad_()
        one, other = losses(theta)
        first, second = (torch.autograd.grad(x, theta, retain_graph=True)[0] for x in (one, other))
        values.append(torch.stack([one, other]).detach())
        gaps.append((first - second).norm() / first.norm())
    one, other = torch.stack(values).unbind(1)
    return ((one - other).std() / one.std()).item(), torch.stack(gaps)


def entropy(mixture: Mixture, t: Scalar, schedule: Schedule, nodes: Nodes) -> Scalar:
    """Return -∫ p_t log p_t, in nats, for mixtures on a line (used in the bound of Sec. 2.2)."""
    log = mixture.log_density(nodes[:, None], t, schedule)
    return -(log.exp() * log).sum() * (nodes[1] - nodes[0])


def chain_gap(
    mixture: Mixture, grid: Float[Tensor, " num_times"], schedule: Schedule, nodes: Nodes
) -> Scalar:
    """Return how far the bound of a perfect denoiser's chain stays below E log p_0, in nats (Sec. 2.2).

    The chain has p_T for its prior and the exact p(x_0 | x_first) for its last step; in between, each step is
    the Gaussian of :func:`~reprobook.diffusion.losses.step_posterior` about E[x_0 | x_s].

    Args:
        mixture: the data, on a line.
        grid: times from noise to data.
        schedule: of the diffusion.
        nodes: where integrals are evaluated.
    """
    ends = [
        entropy(mixture, t, schedule, nodes) - (2 * math.pi * math.e * schedule.sigma(t).square()).log() / 2
        for t in (grid[0], grid[-1])
    ]
    second = mixture.covariance()[0, 0] + mixture.mean()[0].square()
    paid = torch.zeros_like(second)
    for s, t in pairwise(grid):
        mean = mixture.denoise(nodes[:, None], s, schedule)[:, 0]
        error = second - (_density(mixture, nodes, s, schedule) * mean.square()).sum() * (nodes[1] - nodes[0])
        drop = torch.exp(2 * schedule.lam(t)) - torch.exp(2 * schedule.lam(s))
        paid = paid + drop * error / 2
    return ends[0] - ends[1] + paid


class Encoder(NamedTuple):
    """q(z | x) = N(gain (x - offset) + shift, covariance), the offset being the decoder's."""

    gain: Tensor
    shift: Tensor
    covariance: Tensor


class LinearGaussian(NamedTuple):
    """The autoencoder whose bound is known in closed form: z ~ N(0, I), x | z ~ N(W z + b, s² I) (Sec. 2.1).

    Attributes:
        weights: W, ``(D, K)``.
        offset: b, ``(D,)``.
        std: s > 0, ().
    """

    weights: Tensor
    offset: Tensor
    std: Tensor

    def log_likelihood(self, x: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Return log p(x) = log N(x; b, W Wᵀ + s² I)."""
        noise = self.std.square() * torch.eye(len(self.offset), dtype=x.dtype)
        return MultivariateNormal(self.offset, self.weights @ self.weights.mT + noise).log_prob(x)

    def posterior(self) -> Encoder:
        """Return p(z | x), the best encoder there is."""
        W, precision = self.weights, self.std.square().reciprocal()
        covariance = torch.linalg.inv(torch.eye(W.shape[1], dtype=W.dtype) + precision * W.mT @ W)
        return Encoder(precision * covariance @ W.mT, torch.zeros_like(W[0]), covariance)

    def elbo(self, x: Float[Tensor, "B D"], encoder: Encoder) -> Float[Tensor, " B"]:
        """Return E_q log p(x | z) - KL(q(z | x) ‖ p(z)), Theorem 2.1.1."""
        gain, shift, V = encoder
        m = (x - self.offset) @ gain.mT + shift
        missed = (x - self.offset - m @ self.weights.mT).square().sum(1)
        missed = missed + (self.weights @ V @ self.weights.mT).trace()
        variance, dim = self.std.square(), x.shape[1]
        reconstruction = -(missed / variance + dim * (2 * math.pi * variance).log()) / 2
        divergence = (V.trace() + m.square().sum(1) - len(shift) - torch.logdet(V)) / 2
        return reconstruction - divergence

    def missing(self, x: Float[Tensor, "B D"], encoder: Encoder) -> Float[Tensor, " B"]:
        """Return KL(q(z | x) ‖ p(z | x)), what Theorem 2.1.1 leaves out."""
        best = self.posterior()
        means = [(x - self.offset) @ e.gain.mT + e.shift for e in (encoder, best)]
        q, p = (MultivariateNormal(m, e.covariance) for m, e in zip(means, (encoder, best), strict=True))
        return torch.distributions.kl_divergence(q, p)

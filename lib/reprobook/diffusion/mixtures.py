"""Gaussian mixtures under diffusion, exactly: density, score, denoiser, velocity and samples at any time.

Noise turns a mixture of Gaussians into another one, with means α m_k and covariances α² Σ_k + σ² I. So the
functions that a diffusion model has to learn are known here in closed form, and whatever a solver, a loss or
a network does can be held against them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reprobook.diffusion.predictions import Model
from reprobook.diffusion.schedules import Schedule, spread

__all__ = ["Mixture", "ring", "leaves"]

Points = Float[Tensor, "*batch dim"]
Times = Float[Tensor, "*times"]


@dataclass(frozen=True)
class Mixture:
    """A mixture of K Gaussians in D dimensions.

    Times are of shape (), or one a point: any leading part of the points' shape.

    Attributes:
        weights: positive, with sum 1, ``(K,)``.
        means: ``(K, D)``.
        covariances: symmetric and positive definite (semidefinite will do at times > 0), ``(K, D, D)``.
    """

    weights: Float[Tensor, " K"]
    means: Float[Tensor, "K D"]
    covariances: Float[Tensor, "K D D"]

    @classmethod
    def isotropic(
        cls,
        means: Float[Tensor, "K D"],
        std: float | Float[Tensor, " K"],
        weights: Float[Tensor, " K"] | None = None,
    ) -> Mixture:
        """Build one whose components are round, of standard deviation ``std``, equally likely by default."""
        num, dim = means.shape
        stds = torch.as_tensor(std, dtype=means.dtype, device=means.device).expand(num)
        eye = torch.eye(dim, dtype=means.dtype, device=means.device)
        weights = torch.full_like(means[:, 0], 1 / num) if weights is None else weights
        return cls(weights, means, stds.square()[:, None, None] * eye)

    def to(self, *args, **kwargs) -> Mixture:
        """Return a copy on another device or of another precision; arguments as of ``Tensor.to``."""
        return Mixture(*(part.to(*args, **kwargs) for part in (self.weights, self.means, self.covariances)))

    def mean(self) -> Float[Tensor, " D"]:
        """Return the mean of the whole mixture."""
        return self.weights @ self.means

    def covariance(self) -> Float[Tensor, "D D"]:
        """Return the covariance of the whole mixture: within the components plus between them."""
        centred = self.means - self.mean()
        between = centred.mT @ (self.weights[:, None] * centred)
        return between + torch.einsum("k,kde->de", self.weights, self.covariances)

    @cached_property
    def _spectra(self) -> tuple[Float[Tensor, "K D"], Float[Tensor, "K D D"] | None]:
        """Variances along the axes of each component, and the axes as columns; None for those of space."""
        diagonal = torch.diagonal(self.covariances, dim1=1, dim2=2)
        if torch.equal(torch.diag_embed(diagonal), self.covariances):
            return diagonal, None
        return tuple(torch.linalg.eigh(self.covariances))

    def sample(
        self, num: int, generator: torch.Generator | None = None, labels: bool = False
    ) -> Float[Tensor, "num D"] | tuple[Float[Tensor, "num D"], Int[Tensor, " num"]]:
        """Draw points; with ``labels`` also the number of the component that each comes from."""
        chosen = torch.multinomial(self.weights, num, replacement=True, generator=generator)
        variances, axes = self._spectra
        like = {"dtype": self.means.dtype, "device": self.means.device}
        offset = variances.sqrt()[chosen] * torch.randn(num, self.means.shape[1], generator=generator, **like)
        if axes is not None:
            offset = torch.einsum("bde,be->bd", axes[chosen], offset)
        points = self.means[chosen] + offset
        return (points, chosen) if labels else points

    def diffused(self, t: Float[Tensor, ""], schedule: Schedule) -> Mixture:
        """Return the mixture that this one has become at a time."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        noise = sigma.square() * torch.eye(
            self.means.shape[1], dtype=self.means.dtype, device=self.means.device
        )
        return Mixture(self.weights, alpha * self.means, alpha.square() * self.covariances + noise)

    def log_density(
        self, x: Points, t: Times | None = None, schedule: Schedule | None = None
    ) -> Float[Tensor, "*batch"]:
        """Return log p_t(x), shape ``(*batch,)``; without a time, that of the mixture itself."""
        _, variances, gaps = self._gaps(x, t, schedule)
        return self._joint(variances, gaps).logsumexp(-1)

    def responsibilities(
        self, x: Points, t: Times | None = None, schedule: Schedule | None = None
    ) -> Float[Tensor, "*batch K"]:
        """Return the probability that a point came from each component, ``(*batch, K)``."""
        _, variances, gaps = self._gaps(x, t, schedule)
        return self._joint(variances, gaps).softmax(-1)

    def score(self, x: Points, t: Times | None = None, schedule: Schedule | None = None) -> Points:
        """Return ∇ log p_t(x), the responsible components' pulls towards their means."""
        _, variances, gaps = self._gaps(x, t, schedule)
        shares = self._joint(variances, gaps).softmax(-1)
        return -self._back(shares[..., None] * gaps / variances)

    def denoise(self, x: Points, t: Times, schedule: Schedule) -> Points:
        """Return E[x_0 | x_t = x]: each component's regression of clean on noisy, weighted."""
        alpha, variances, gaps = self._gaps(x, t, schedule)
        shares = self._joint(variances, gaps).softmax(-1)
        gain = alpha * self._spectra[0] / variances
        return shares @ self.means + self._back(shares[..., None] * gain * gaps)

    def model(self, schedule: Schedule, kind: str = "clean") -> Model:
        """Return the perfect model of this mixture, which predicts what it is asked for.

        Args:
            schedule: of the diffusion.
            kind: ``clean``, ``noise``, ``score`` or ``velocity``; each is computed where it is well
                conditioned, the last from clean sample and score.
        """

        def noise(x: Tensor, t: Tensor) -> Tensor:
            return -spread(schedule.sigma(t), x) * self.score(x, t, schedule)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            clean = spread(schedule.d_alpha(t), x) * self.denoise(x, t, schedule)
            return clean + spread(schedule.d_sigma(t), x) * noise(x, t)

        functions = {
            "clean": lambda x, t: self.denoise(x, t, schedule),
            "noise": noise,
            "score": lambda x, t: self.score(x, t, schedule),
            "velocity": velocity,
        }
        return Model(functions[kind], kind, schedule)

    def _gaps(self, x: Points, t: Times | None, schedule: Schedule | None):
        """Return α, the variances at time t, and x - α m_k, all along each component's own axes."""
        variances, axes = self._spectra
        if t is None:
            alpha = torch.ones((), dtype=x.dtype, device=x.device)
        else:
            alpha = spread(schedule.alpha(t), x)[..., None] if t.ndim else schedule.alpha(t)
            sigma = spread(schedule.sigma(t), x)[..., None] if t.ndim else schedule.sigma(t)
            variances = alpha.square() * variances + sigma.square()
        gaps = x[..., None, :] - alpha * self.means
        if axes is not None:
            gaps = torch.einsum("kde,...kd->...ke", axes, gaps)
        return alpha, variances, gaps

    def _joint(self, variances: Tensor, gaps: Tensor) -> Tensor:
        """Return the logarithm of weight times density of every component, ``(*batch, K)``."""
        squares = (gaps.square() / variances).sum(-1) + variances.log().sum(-1)
        return self.weights.log() - (squares + gaps.shape[-1] * math.log(2 * math.pi)) / 2

    def _back(self, parts: Tensor) -> Tensor:
        """Sum the components' vectors, given along their own axes, in the axes of space."""
        axes = self._spectra[1]
        return parts.sum(-2) if axes is None else torch.einsum("kde,...ke->...d", axes, parts)


def ring(
    num_modes: int = 8, radius: float = 2.0, std: float = 0.1, weights: Sequence[float] | None = None
) -> Mixture:
    """Return round Gaussians, evenly spaced on a circle in the plane; double precision."""
    angles = torch.arange(num_modes, dtype=torch.float64) * (2 * math.pi / num_modes)
    means = radius * torch.stack([angles.cos(), angles.sin()], 1)
    shares = None if weights is None else torch.tensor(weights, dtype=torch.float64) / sum(weights)
    return Mixture.isotropic(means, std, shares)


def leaves(num_modes: int = 5, radius: float = 1.6, long: float = 0.6, short: float = 0.08) -> Mixture:
    """Return narrow Gaussians placed like leaves round a stem, the later the rarer; double precision.

    Harder than a ring: each component has its own direction, and they have unequal weights.
    """
    angles = torch.arange(num_modes, dtype=torch.float64) * (2 * math.pi / num_modes)
    radial = torch.stack([angles.cos(), angles.sin()], 1)
    along = torch.stack([(angles + 0.6).cos(), (angles + 0.6).sin()], 1)
    across = torch.stack([-along[:, 1], along[:, 0]], 1)
    axes, stds = torch.stack([along, across], 2), torch.tensor([long, short], dtype=torch.float64)
    shapes = (axes * stds.square()) @ axes.mT
    weights = 0.8 ** torch.arange(num_modes, dtype=torch.float64)
    return Mixture(weights / weights.sum(), radius * radial, shapes)

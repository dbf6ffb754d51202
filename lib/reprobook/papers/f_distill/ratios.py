"""Density ratios in practice: from logits, normalised twice, and how many samples they really use.

A discriminator's logit estimates log r, r = p_t/q_t, and its errors would tilt the weights. Xu, Nie and
Vahdat (arXiv 2502.15681) therefore divide twice: the ratio by its running mean at its noise level, since
E_q[r] = 1 at each, and the weight h(r) by its mean over the mini-batch (their Fig. 4b shows what for).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["BinnedMean", "effective_share", "mean_one", "ratio_from_logit"]

Values = Float[Tensor, "*members batch"]


def ratio_from_logit(logit: Values, largest: float = 20.0) -> Values:
    """Return r = exp(logit), in single precision or better; logits are first cut at ±``largest``.

    The optimal discriminator between teacher (label 1) and student has the logit log p/q.
    """
    return logit.to(torch.promote_types(logit.dtype, torch.float32)).clamp(-largest, largest).exp()


class BinnedMean:
    """Stage one: a running mean of the ratio in each bin of the noise level.

    The mean over all bins' samples is one where the ratio is exact; so a bin's mean measures the estimator's
    bias at that noise level. A bin that has seen nothing yet counts as one.

    Args:
        first, last: ends of the level; levels beyond fall into the outermost bins.
        num_bins: K.
        decay: how much of the old mean an update keeps, in [0, 1).
        num_members: S, of a stack; None for a single student.
    """

    def __init__(
        self,
        first: float,
        last: float,
        num_bins: int = 10,
        decay: float = 0.95,
        num_members: int | None = None,
    ) -> None:
        self.first, self.last, self.num_bins, self.decay = first, last, num_bins, decay
        shape = (num_bins,) if num_members is None else (num_members, num_bins)
        self.sums, self.counts = torch.zeros(shape), torch.zeros(shape)

    def bins(self, level: Values) -> Tensor:
        """Return the number of the bin that each level falls into, 0 to K - 1."""
        share = (level - self.first) / (self.last - self.first)
        return (share * self.num_bins).long().clamp(0, self.num_bins - 1)

    def update(self, level: Values, ratio: Values) -> None:
        """Take in the ratios of a batch, ``(B,)`` or ``(S, B)``; a bin without samples stays as it is."""
        bins = self.bins(level)
        self.sums, self.counts = self.sums.to(ratio), self.counts.to(ratio)
        fresh = torch.zeros_like(self.sums).scatter_add(-1, bins, ratio.detach())
        count = torch.zeros_like(self.counts).scatter_add(-1, bins, torch.ones_like(ratio))
        kept = torch.where(count > 0, self.decay, 1.0)
        self.sums, self.counts = kept * self.sums + fresh, kept * self.counts + count

    def means(self) -> Float[Tensor, "*members bins"]:
        """Return each bin's mean: a weighted one, over all samples so far, the older the lighter."""
        return torch.where(self.counts > 0, self.sums / self.counts.clamp(min=1e-12), 1.0)

    def normalise(self, level: Values, ratio: Values) -> Values:
        """Return every ratio divided by the mean of its bin."""
        return ratio / self.means().to(ratio).gather(-1, self.bins(level))


def mean_one(weight: Values) -> Values:
    """Stage two: divide weights by their mean over the batch, the last axis."""
    return weight / weight.mean(-1, keepdim=True)


def effective_share(weight: Values) -> Float[Tensor, "*members"]:
    """Return (Σh)² / (n Σh²), the share of the samples that n weighted ones are worth, in [1/n, 1]."""
    return weight.sum(-1).square() / (weight.shape[-1] * weight.square().sum(-1))

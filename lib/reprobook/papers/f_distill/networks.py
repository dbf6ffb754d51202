"""The networks of a distillation: one-step students, and discriminators for points and images.

Xu, Nie and Vahdat (arXiv 2502.15681) start student and fake score from the teacher, and let the discriminator
look at features of one of them (Fig. 7); here it looks at the frozen teacher's.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from reprobook.diffusion.networks import TimeMLP, UNet
from reprobook.diffusion.predictions import Model
from reprobook.diffusion.schedules import Schedule

__all__ = ["OneStep", "PointDiscriminator", "FeatureDiscriminator"]


class OneStep(nn.Module):
    """A denoiser, asked once at the last time: G(z) = x̂(σ z) from noise z.

    Args:
        net: noisy samples and times to predictions.
        schedule: of the diffusion that it was made for.
        kind: what it predicts.
    """

    def __init__(self, net: nn.Module, schedule: Schedule, kind: str) -> None:
        super().__init__()
        self.net, self.schedule, self.kind = net, schedule, kind

    def forward(
        self, z: Float[Tensor, "B ..."], label: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B ..."]:
        """Return a clean sample for every z, standard normal, ``(B, ...)``."""
        last = torch.tensor(self.schedule.last, dtype=z.dtype, device=z.device)
        told = {} if label is None else {"label": label}
        model = Model(lambda x, t: self.net(x, t, **told).to(x.dtype), self.kind, self.schedule)
        return model(self.schedule.sigma(last) * z, last)


class PointDiscriminator(nn.Module):
    """A residual network from a noisy point and its time to a logit; arguments as of ``TimeMLP``."""

    def __init__(self, dim: int, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.net = TimeMLP(dim, width, depth, num_outputs=1)

    def forward(self, x: Float[Tensor, "B D"], t: Float[Tensor, "*times"]) -> Float[Tensor, " B"]:
        """Return log p_t/q_t as far as it has been learned, ``(B,)``."""
        return self.net(x, t)[:, 0]


class FeatureDiscriminator(nn.Module):
    """A small head on what the frozen teacher sees in a noisy image.

    Args:
        teacher: gives features; a copy of its first half is kept, and never trained.
        width: of the head.
    """

    def __init__(self, teacher: UNet, width: int = 64) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(teacher).requires_grad_(False)
        channels = teacher.middle[1].second.out_channels
        self.head = nn.Sequential(
            *(nn.Conv2d(channels, width, 3, padding=1), nn.SiLU()),
            *(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.SiLU()),
        )
        self.last = nn.Linear(width, 1)

    def forward(
        self, x: Float[Tensor, "B C H W"], t: Float[Tensor, "*times"], label: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, " B"]:
        """Return a logit for every image, ``(B,)``; gradients go through to the image."""
        _, features, _ = self.teacher.encode(x, t, label)
        return self.last(F.silu(self.head(features).mean((2, 3))))[:, 0]

"""The convolutional networks of Fig. 4, and a small one for images of 16 x 16 pixels.

A network is data: how its features are built, and how wide the two heads on them are. All of them are
cut in two after the last block of convolutions, which is where the domain classifier is attached
(Sec. 5.2.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reprobook.papers.dann.reversal import reverse_gradient

__all__ = ["Conv", "Architecture", "ARCHITECTURES", "DomainAdversarialNet"]


@dataclass(frozen=True)
class Conv:
    """A convolution, ReLU, and max-pooling.

    Attributes:
        kernel: side of the filters, pixels.
        channels: how many filters.
        pool: side of the pooling window, pixels; 1 for none.
        stride: its step, pixels.
        padding: how many zeros are put around the image before the convolution, pixels.
    """

    kernel: int
    channels: int
    pool: int = 1
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Architecture:
    """A row of Fig. 4.

    Attributes:
        convs: the feature extractor.
        label_head: widths of the hidden layers of the label classifier.
        domain_head: widths of the hidden layers of the domain classifier.
        classes: how many labels.
        size: side of the images that it was made for, pixels.
    """

    convs: tuple[Conv, ...]
    label_head: tuple[int, ...]
    domain_head: tuple[int, ...]
    classes: int = 10
    size: int = 32


ARCHITECTURES = {
    "mnist": Architecture((Conv(5, 32, 2, 2), Conv(5, 48, 2, 2)), (100, 100), (100,), size=28),
    # DEPARTURE: Fig. 4 prints no padding; without it the third convolution does not fit into 32 pixels
    "svhn": Architecture(
        (Conv(5, 64, 3, 2, 2), Conv(5, 64, 3, 2, 2), Conv(5, 128, padding=2)), (3072, 2048), (1024, 1024)
    ),
    "gtsrb": Architecture(
        (Conv(5, 96, 2, 2), Conv(3, 144, 2, 2), Conv(5, 256, 2, 2)), (512,), (1024, 1024), classes=43, size=48
    ),
    # not in the paper: the MNIST net for images of 16 x 16 pixels, cheap enough for a laptop
    "small": Architecture((Conv(3, 16, 2, 2), Conv(3, 32, 2, 2)), (64,), (64,), size=16),
}


class DomainAdversarialNet(nn.Module):
    """Features G_f, label classifier G_y and domain classifier G_d (Sec. 4.2, Fig. 1).

    Args:
        architecture: a row of :data:`ARCHITECTURES`.
        size: side of the images, pixels; by default what the architecture was made for.
        batch_norm: ``none``, as in the paper; ``together`` for networks that are shown both domains in one
            batch, with statistics that are kept for later; ``apart`` for batches of one domain each, which
            are normalised by their own statistics at any time.

    Raises:
        ValueError: if the images are too small for the convolutions.
    """

    def __init__(self, architecture: Architecture, size: int | None = None, batch_norm: str = "none") -> None:
        super().__init__()
        size, channels, blocks = size or architecture.size, 3, []
        for done, conv in enumerate(architecture.convs):
            side = size + 2 * conv.padding - conv.kernel + 1
            if side < conv.pool:
                raise ValueError(f"images of this size are too small for convolution {done + 1}")
            size = (side - conv.pool) // conv.stride + 1
            blocks += [nn.Conv2d(channels, conv.channels, conv.kernel, padding=conv.padding)]
            blocks += _normalisation(nn.BatchNorm2d, conv.channels, batch_norm)
            # the largest of the rectified is the rectified largest, and fewer of them are to be rectified
            blocks += [*([nn.MaxPool2d(conv.pool, conv.stride)] if conv.pool > 1 else []), nn.ReLU()]
            channels = conv.channels
        width = channels * size**2
        self.features = nn.Sequential(*blocks, nn.Flatten())
        self.label_head = _head(width, architecture.label_head, architecture.classes, batch_norm)
        self.domain_head = _head(width, architecture.domain_head, 1, batch_norm)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], weight: float = 1.0
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, " batch"]]:
        """Return the labels' logits and the domain's logit (positive for the target).

        Args:
            images: prepared images.
            weight: λ, by which the domain's gradient is multiplied, and reversed, before it reaches the
                features (Eqs. 16-17).
        """
        features = self.features(images)
        return self.label_head(features), self.domain_head(reverse_gradient(features, weight)).squeeze(1)

    @torch.no_grad()
    def embed(self, images: Float[Tensor, "batch 3 height width"], layer: str = "features"):
        """Return a layer of images: ``features``, or ``penultimate``, the last hidden one of G_y."""
        features = self.features(images)
        return features if layer == "features" else self.label_head[:-1](features)


def _normalisation(kind: type[nn.Module], width: int, batch_norm: str) -> list[nn.Module]:
    return [] if batch_norm == "none" else [kind(width, track_running_stats=batch_norm == "together")]


def _head(width: int, hidden: Sequence[int], out: int, batch_norm: str) -> nn.Sequential:
    """Return fully connected layers with ReLU between them; no non-linearity at the end."""
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(width, units), *_normalisation(nn.BatchNorm1d, units, batch_norm), nn.ReLU()]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, out))

"""The convolutional network, which settles too: convolutions, softmax pooling, and their transposes.

Layer l receives f_l(r_{l-1}) = pool(conv(r_{l-1})) from below, and from above the transpose of f_{l+1}'s
derivative, built with kernels of its own and taken at r_l, applied to r_{l+1} (Laborieux and Zenke, arXiv
2309.02214, public code). With equal kernels the dynamics descends an energy. Pooling is not linear, so here
the Jacobian depends on the state.

With F and B the derivatives of a stage with the kernels of the way forth and of the way back, the derivative
of what layers receive has the blocks F below the diagonal, Bᵀ above it and, on it, the second derivative of
r_{l+1}·b_{l+1}(r_l), which is symmetric. So all asymmetry is F - B.

States are a list of ``(M, B, channels, height, width)``; the members of a stack are networks of one shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.func import vjp
from torch.nn import functional as F

from reprobook.papers.equilibrium_propagation.activations import ACTIVATIONS, Activation, softmax
from reprobook.papers.equilibrium_propagation.relaxation import Settled

__all__ = [
    "Convolutional",
    "Linearised",
    "Stage",
    "softmax_pool",
    "full_derivative",
    "full_jacobian",
    "initial_kernels",
]

Layers = list[Tensor]
Weights = dict[str, Tensor]


def softmax_pool(v: Shaped[Tensor, "*batch H W"]) -> Shaped[Tensor, "*batch h w"]:
    """Return Σ v eᵛ / Σ eᵛ over squares of 2×2, the paper's smooth maximum that complex numbers can pass."""
    values = _squares(v)
    return (values * softmax(values)).sum(-1)


@dataclass(frozen=True)
class Stage:
    """The derivative of pool(conv(r)) at one r, with what it needs (the paper's convolutional network).

    Attributes:
        kernels: ``(M, out, in, 3, 3)``.
        padding: of the convolution.
        weights: of the softmax pooling, ``(M, B, out, h, w, 4)``.
        excess: 1 + v - pooled, so that ``slopes``, the derivative of the pooling, is weights · excess.
    """

    kernels: Tensor
    padding: int
    weights: Tensor
    excess: Tensor

    @classmethod
    def at(cls, r: Shaped[Tensor, "M B in H W"], kernels: Tensor, padding: int) -> Stage:
        """Take the derivative at r."""
        values = _squares(_convolve(r, kernels, padding))
        weights = softmax(values)
        return cls(kernels, padding, weights, 1 + values - (weights * values).sum(-1, keepdim=True))

    @property
    def slopes(self) -> Shaped[Tensor, "M B out h w 4"]:
        """Return the derivatives of each pooled value with its four, which add up to one."""
        return self.weights * self.excess

    def up(self, e: Shaped[Tensor, "M B in H W"]) -> Shaped[Tensor, "M B out h w"]:
        """Return the derivative along e."""
        return (self.slopes * _squares(_convolve(e, self.kernels, self.padding))).sum(-1)

    def down(self, above: Shaped[Tensor, "M B out h w"]) -> Shaped[Tensor, "M B in H W"]:
        """Return the transpose of the derivative, applied to what is above; of complex ones no adjoint."""
        return _spread(_pixels(self.slopes * above[..., None]), self.kernels, self.padding)

    def bent(
        self, above: Shaped[Tensor, "M B out h w"], e: Shaped[Tensor, "M B in H W"]
    ) -> Shaped[Tensor, "M B in H W"]:
        """Return the change of ``down(above)`` with r along e: a second derivative, and symmetric."""
        moved = _squares(_convolve(e, self.kernels, self.padding))
        pooled = (self.slopes * moved).sum(-1, keepdim=True)
        turned = moved - (self.weights * moved).sum(-1, keepdim=True)
        change = self.weights * (turned * self.excess + moved - pooled)
        return _spread(_pixels(change * above[..., None]), self.kernels, self.padding)


@dataclass(frozen=True)
class Linearised:
    """The derivative W of what a network's layers receive, at one state: made once, applied many times.

    Attributes:
        r: activities at which the derivative is taken.
        forth, back: F and B of layers 2 to L.
    """

    r: Layers
    forth: list[Stage]
    back: list[Stage]

    def push(self, e: Layers) -> Layers:
        """Return We."""
        return self._product(self.forth, self.back, e)

    def pull(self, e: Layers) -> Layers:
        """Return Wᵀe: the two ways change places."""
        return self._product(self.back, self.forth, e)

    def _product(self, rising: list[Stage], falling: list[Stage], e: Layers) -> Layers:
        found = [torch.zeros_like(e[0]), *(way.up(part) for way, part in zip(rising, e[:-1], strict=True))]
        for k, (way, bend) in enumerate(zip(falling, self.back, strict=True)):
            found[k] = found[k] + way.down(e[k + 1]) + bend.bent(self.r[k + 1], e[k])
        return found

    def differences(self, e: Layers) -> Layers:
        """Return (F - B)e for layers 2 to L: where all of the asymmetry is."""
        pairs = zip(self.forth, self.back, e[:-1], strict=True)
        return [f.up(part) - b.up(part) for f, b, part in pairs]


@dataclass(frozen=True)
class Convolutional:
    """M of the paper's convolutional networks with weights, as :class:`~.relaxation.Network` asks for.

    Attributes:
        weights: ``forth l``, ``back l`` (kernels ``(M, out, in, 3, 3)``; back from l = 2 on), ``bias l``
            ``(M, out)``, ``readout``, ``readout bias``.
        paddings: of each convolution, 1 to keep the size, 0 to lose two pixels.
        activation: a key of :data:`~.activations.ACTIVATIONS`.
        lens: the derivative at the one state at which products are wanted; taken anew for each if None.
    """

    weights: Weights
    paddings: tuple[int, ...]
    activation: str = "capped"
    lens: Linearised | None = None

    @property
    def phi(self) -> Activation:
        """The activation of all neurons."""
        return ACTIVATIONS[self.activation]

    def forth(self, layer: int, r: Shaped[Tensor, "M B C H W"]) -> Shaped[Tensor, "M B c h w"]:
        """Return what a layer receives from below; a bias passes the pooling unchanged, so it comes last."""
        pooled = softmax_pool(_convolve(r, self.weights[f"forth {layer}"], self.paddings[layer - 1]))
        return pooled + self.weights[f"bias {layer}"][:, None, :, None, None]

    def stage(self, way: str, layer: int, r: Shaped[Tensor, "M B C H W"]) -> Stage:
        """Return the derivative of a stage at r, with the kernels ``forth`` or ``back``."""
        return Stage.at(r, self.weights[f"{way} {layer}"], self.paddings[layer - 1])

    def zeros(self, x: Float[Tensor, "M B C H W"]) -> Layers:
        """Return the state in which settling begins."""
        (members, batch, _, *size), states = x.shape, []
        for layer, padding in enumerate(self.paddings, 1):
            size = [(n + 2 * padding - 2) // 2 for n in size]
            states.append(x.new_zeros(members, batch, self.weights[f"bias {layer}"].shape[1], *size))
        return states

    def drive(self, x: Float[Tensor, "M B C H W"]) -> Float[Tensor, "M B c h w"]:
        """Return what layer 1 receives from the input; it does not change while the network settles."""
        return self.forth(1, x)

    def received(self, drive: Float[Tensor, "M B c h w"], r: Layers) -> Layers:
        """Return H(r), what layers 1 to L receive."""
        sums = [drive.to(r[0].dtype), *(self.forth(layer, part) for layer, part in enumerate(r[:-1], 2))]
        for layer, (below, above) in enumerate(pairwise(r), 2):
            sums[layer - 2] = sums[layer - 2] + self.stage("back", layer, below).down(above)
        return sums

    def linearised(self, r: Layers) -> Linearised:
        """Return the derivative of H at r, to be applied many times."""
        numbered = list(enumerate(r[:-1], 2))
        forth, back = ([self.stage(way, *pair) for pair in numbered] for way in ("forth", "back"))
        return Linearised(r, forth, back)

    def held_at(self, r: Layers) -> Convolutional:
        """Return this network for many products at the one state r."""
        return replace(self, lens=self.linearised(r))

    def push(self, r: Layers, e: Layers) -> Layers:
        """Return the derivative of H at r along e."""
        return (self.lens or self.linearised(r)).push(e)

    def pull(self, r: Layers, e: Layers) -> Layers:
        """Return the transpose of the derivative of H at r, applied to e."""
        return (self.lens or self.linearised(r)).pull(e)

    def slopes(self, x: Float[Tensor, "M B C H W"], r: Layers, e: Layers) -> Weights:
        """Return (∂H/∂θ)ᵀe, averaged over the batch."""
        kernels = {name: w for name, w in self.weights.items() if not name.startswith("readout")}

        def received(kernels: Weights) -> tuple[Tensor, ...]:
            net = replace(self, weights={**self.weights, **kernels})
            return tuple(net.received(net.drive(x), r))

        (found,) = vjp(received, kernels)[1](tuple(e))
        return {name: slope / x.shape[1] for name, slope in found.items()}


def full_derivative(net: Convolutional, r: Layers) -> Float[Tensor, "M B N N"]:
    """Return W, the derivative of H at each image's activities, as a full matrix: for small networks only.

    Neurons are numbered layer by layer, each flattened (theory of the paper's Jacobian J = W - diag 1/φ′).
    """
    (members, batch), sizes = r[0].shape[:2], [math.prod(part.shape[2:]) for part in r]
    eye = torch.eye(sum(sizes), dtype=r[0].dtype, device=r[0].device)
    copies = [part.repeat_interleave(len(eye), 1) for part in r]  # B, then the directions of each
    shaped = [
        block.reshape(len(eye), *part.shape[2:]).repeat(members, batch, 1, 1, 1)
        for block, part in zip(eye.split(sizes, 1), r, strict=True)
    ]
    columns = torch.cat([part.flatten(2) for part in net.push(copies, shaped)], -1)
    return columns.reshape(members, batch, len(eye), len(eye)).mT


def full_jacobian(net: Convolutional, settled: Settled) -> Float[Tensor, "M B N N"]:
    """Return the paper's J = W - diag(1/φ′(u)) at each settled state, a full matrix."""
    u = torch.cat([part.flatten(2) for part in settled.u], -1)
    return full_derivative(net, settled.r) - torch.diag_embed(1 / net.phi.slope(u))


def _squares(v: Shaped[Tensor, "*batch H W"]) -> Shaped[Tensor, "*batch h w 4"]:
    """Return the squares of 2×2 pixels side by side."""
    *lead, height, width = v.shape
    return v.reshape(*lead, height // 2, 2, width // 2, 2).movedim(-3, -2).flatten(-2)


def _pixels(squares: Shaped[Tensor, "*batch h w 4"]) -> Shaped[Tensor, "*batch H W"]:
    """Return the picture that the squares were cut from."""
    return squares.unflatten(-1, (2, 2)).movedim(-2, -3).flatten(-2).flatten(-3, -2)


def _convolve(
    x: Shaped[Tensor, "M B in H W"], kernels: Float[Tensor, "M out in 3 3"], padding: int
) -> Shaped[Tensor, "M B out h w"]:
    """Return the convolution of real or complex maps with real kernels, every member with its own."""
    if x.is_complex():
        return torch.complex(_convolve(x.real, kernels, padding), _convolve(x.imag, kernels, padding))
    side_by_side = x.transpose(0, 1).flatten(1, 2)
    found = F.conv2d(side_by_side, kernels.flatten(0, 1), padding=padding, groups=len(kernels))
    return found.unflatten(1, (len(kernels), -1)).transpose(0, 1)


def _spread(
    v: Shaped[Tensor, "M B out h w"], kernels: Float[Tensor, "M out in 3 3"], padding: int
) -> Shaped[Tensor, "M B in H W"]:
    """Return the transpose of :func:`_convolve`, applied to v."""
    if v.is_complex():
        return torch.complex(_spread(v.real, kernels, padding), _spread(v.imag, kernels, padding))
    side_by_side = v.transpose(0, 1).flatten(1, 2)
    found = F.conv_transpose2d(side_by_side, kernels.flatten(0, 1), padding=padding, groups=len(kernels))
    return found.unflatten(1, (len(kernels), -1)).transpose(0, 1)


def initial_kernels(
    channels: Sequence[int],
    num_features: int,
    num_classes: int,
    angles: Sequence[float],
    seeds: Sequence[int],
    gain: float = 1.0,
) -> Weights:
    """Return random weights in double precision, one member for each angle and seed (the paper's CNN).

    Kernels are normal with variance ``gain``²/(9 · channels in); those of a way back are turned by an angle
    from those of the way forth, as in :func:`~.layered.initial_weights`.

    Args:
        channels: of the images and of each layer; the paper's are 3, 128, 256, 512, 512.
        num_features: of the last layer, flattened; what the readout sees.
        num_classes: of the readout.
        angles: in degrees, one a member.
        seeds: one a member.
        gain: of all kernels and the readout.
    """

    def one(angle: float, seed: int) -> Weights:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            scale = gain / math.prod(shape[1:]) ** 0.5
            return scale * torch.randn(shape, generator=generator, dtype=torch.float64)

        weights: Weights = {}
        for layer in range(1, len(channels)):
            shape = (channels[layer], channels[layer - 1], 3, 3)
            weights[f"forth {layer}"] = normal(*shape)
            weights[f"bias {layer}"] = torch.zeros(channels[layer], dtype=torch.float64)
            if layer > 1:
                turned = math.sin(angle) * normal(*shape) + math.cos(angle) * weights[f"forth {layer}"]
                weights[f"back {layer}"] = turned
        weights["readout"] = normal(num_classes, num_features)
        weights["readout bias"] = torch.zeros(num_classes, dtype=torch.float64)
        return weights

    members = [one(math.radians(a), s) for a, s in zip(angles, seeds, strict=True)]
    return {name: torch.stack([m[name] for m in members]) for name in members[0]}

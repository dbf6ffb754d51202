"""Networks of fully connected layers that settle, many of one shape side by side.

A network has layers 0 (the input) to L and a list of ways from layer to layer. Layer l receives H(r)_l = Σ
W_{s→l} r_s + b_l, over the ways that end in it, and settles at u_l = H(φ(u))_l; the last layer is read by a
softmax classifier (Laborieux and Zenke, arXiv 2309.02214: their MLP and their loop). Everything carries a
leading axis of M members, networks of one wiring with weights of their own: weights are ``(M, n_to,
n_from)``, states and activities a list with ``(M, B, n)`` for each of the layers 1 to L.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from reprobook.papers.equilibrium_propagation.activations import ACTIVATIONS, Activation
from reprobook.papers.equilibrium_propagation.relaxation import product

__all__ = ["Wiring", "layered", "loop", "initial_weights", "Layered"]

#: Weights by name: ``s>t`` of a way, ``t`` of a bias, ``readout`` and ``readout bias``.
Weights = dict[str, Tensor]
#: States or activities of layers 1 to L, real or complex.
Layers = list[Tensor]


@dataclass(frozen=True)
class Wiring:
    """The shape of a network.

    Attributes:
        sizes: neurons of each layer, the input first.
        ways: pairs (from, to) of layers; ways back have no bias of their own.
        num_classes: of the readout.
        activation: a key of :data:`~.activations.ACTIVATIONS`.
    """

    sizes: tuple[int, ...]
    ways: tuple[tuple[int, int], ...]
    num_classes: int
    activation: str = "logistic"

    @property
    def phi(self) -> Activation:
        """The activation."""
        return ACTIVATIONS[self.activation]


def layered(sizes: Sequence[int], num_classes: int, activation: str = "logistic") -> Wiring:
    """Return a wiring in which neighbours speak to each other, both ways (the paper's MLP)."""
    forth = [(i, i + 1) for i in range(len(sizes) - 1)]
    back = [(i + 1, i) for i in range(1, len(sizes) - 1)]
    return Wiring(tuple(sizes), (*forth, *back), num_classes, activation)


def loop(sizes: Sequence[int], num_classes: int, activation: str = "logistic") -> Wiring:
    """Return a wiring with one way back only, from the last layer to the first (the loop of Fig. 4e-h)."""
    forth = [(i, i + 1) for i in range(len(sizes) - 1)]
    return Wiring(tuple(sizes), (*forth, (len(sizes) - 1, 1)), num_classes, activation)


def initial_weights(
    wiring: Wiring, angles: Sequence[float], seeds: Sequence[int], gain: float = 1.0
) -> Weights:
    """Return random weights in double precision, one member for each angle and seed.

    Ways forth are normal with variance ``gain``²/n_from. A way back that has a way forth opposite is sin a
    · random + cos a · forthᵀ, with the random part distributed as forthᵀ: so a is the expected angle
    between them (the paper's Fig. 3), 0 is symmetric and 90 independent. A way back without one is random.

    Args:
        wiring: of the network.
        angles: a in degrees, one a member.
        seeds: one a member; members of one seed share all random numbers.
        gain: of the ways forth and of the readout.
    """
    members = [_one_member(wiring, math.radians(a), s, gain) for a, s in zip(angles, seeds, strict=True)]
    return {name: torch.stack([m[name] for m in members]) for name in members[0]}


def _one_member(wiring: Wiring, angle: float, seed: int, gain: float) -> Weights:
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    n, weights = wiring.sizes, {}
    for s, t in wiring.ways:
        if s < t:
            weights[f"{s}>{t}"] = gain * normal(n[t], n[s]) / n[s] ** 0.5
            weights[f"{t}"] = torch.zeros(n[t], dtype=torch.float64)
        elif f"{t}>{s}" in weights:
            fresh = gain * normal(n[t], n[s]) / n[t] ** 0.5  # variance of the way forth: 1 / its n_from
            weights[f"{s}>{t}"] = math.sin(angle) * fresh + math.cos(angle) * weights[f"{t}>{s}"].mT
        else:
            weights[f"{s}>{t}"] = gain * normal(n[t], n[s]) / n[s] ** 0.5
    weights["readout"] = gain * normal(wiring.num_classes, n[-1]) / n[-1] ** 0.5
    weights["readout bias"] = torch.zeros(wiring.num_classes, dtype=torch.float64)
    return weights


@dataclass(frozen=True)
class Layered:
    """M networks of one wiring with their weights, as :class:`~.relaxation.Network` asks for."""

    wiring: Wiring
    weights: Weights

    @property
    def phi(self) -> Activation:
        """The activation of all neurons."""
        return self.wiring.phi

    def zeros(self, x: Float[Tensor, "M B D"]) -> Layers:
        """Return the state in which settling begins."""
        return [x.new_zeros(*x.shape[:2], n) for n in self.wiring.sizes[1:]]

    def drive(self, x: Float[Tensor, "M B D"]) -> Float[Tensor, "M B n"]:
        """Return what layer 1 gets from the input, W x + b: it does not change while the network settles."""
        return x @ self.weights["0>1"].mT + self.weights["1"][:, None]

    def received(self, drive: Float[Tensor, "M B n"], r: Layers) -> Layers:
        """Return H(r), what layers 1 to L receive."""
        sums = self.push(r, r)
        with_bias = [total + self.weights[f"{t}"][:, None] for t, total in enumerate(sums[1:], 2)]
        return [sums[0] + drive, *with_bias]

    def push(self, r: Layers, e: Layers) -> Layers:
        """Return We, the derivative of H at r along e; here it is the same at every r."""
        sums: Layers = [torch.zeros_like(part) for part in e]
        for s, t in self.wiring.ways:
            if s:
                sums[t - 1] = sums[t - 1] + product(e[s - 1], self.weights[f"{s}>{t}"])
        return sums

    def pull(self, r: Layers, e: Layers) -> Layers:
        """Return Wᵀe."""
        sums: Layers = [torch.zeros_like(part) for part in e]
        for s, t in self.wiring.ways:
            if s:
                sums[s - 1] = sums[s - 1] + product(e[t - 1], self.weights[f"{s}>{t}"].mT)
        return sums

    def slopes(self, x: Float[Tensor, "M B D"], r: Layers, e: Layers) -> Weights:
        """Return (∂H/∂θ)ᵀe, averaged over the batch: for a way from s to t e_t r_sᵀ, a local rule."""
        sources, found = [x, *r], {}
        for s, t in self.wiring.ways:
            found[f"{s}>{t}"] = e[t - 1].mT @ sources[s] / x.shape[1]
            if s < t:
                found[f"{t}"] = e[t - 1].mean(1)
        return found

    def angles(self) -> dict[str, Float[Tensor, " M"]]:
        """Return the angle between every way forth and the transpose of its way back, in degrees (Fig. 4)."""
        found = {}
        for s, t in self.wiring.ways:
            if 0 < s < t and (t, s) in self.wiring.ways:
                forth, back = self.weights[f"{s}>{t}"], self.weights[f"{t}>{s}"].mT
                cosine = torch.cosine_similarity(forth.flatten(1), back.flatten(1), dim=1)
                found[f"{s}>{t}"] = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
        return found

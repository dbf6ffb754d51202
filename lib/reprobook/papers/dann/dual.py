"""Algorithm 1 through inner products alone, all settings of a grid as one batch.

Every step of Algorithm 1 adds multiples of training points to the rows of W. So at any time
W = W_0 + Σ_k a_k x_kᵀ, and the network is known by what it pays to each training point, a_k, one number a
hidden unit. What the hidden layer sees of any point x is then W x = W_0 x + Σ_k a_k ⟨x_k, x⟩: the features of
x enter only through inner products, which are computed once. A step costs the same for five thousand sparse
word counts and for thirty thousand dense mSDA features, and is exact for both.

=============  ==============  =============================================================================
symbol         shape           meaning
=============  ==============  =============================================================================
M, N                           all points; the first N of them may be trained on
G                              members of the batch: points of a grid of settings, trained side by side
D                              hidden units
gram           (M, N)          inner products ⟨x_i, x_k⟩
base           (M, D)          W_0 x_i, what the hidden units see before training
a              (n, G, D)       coefficients of the n points that a run trains on
λ              (G,)            weight of the domain loss
=============  ==============  =============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from reprobook.errors import UserError

__all__ = [
    "Points",
    "Nets",
    "Fitted",
    "points",
    "coordinates",
    "fresh",
    "hidden",
    "errors",
    "epoch",
    "fit",
    "learner",
]


class Points(NamedTuple):
    """Points of both domains, known by their inner products with those that may be trained on.

    Attributes:
        gram: ``(M, N)``; row i holds ⟨x_i, x_k⟩ for the N training points, which are rows 0 to N - 1.
        base: ``(M, D)``, W_0 x_i for the W_0 that every run starts from.
    """

    gram: Float[Tensor, "M N"]
    base: Float[Tensor, "M D"]


class Nets(NamedTuple):
    """G shallow networks in dual form; V, c, u, d as in Sec. 4.1 (u, d answer "target")."""

    a: Float[Tensor, "n G D"]
    b: Float[Tensor, "G D"]
    V: Float[Tensor, "G 2 D"]
    c: Float[Tensor, "G 2"]
    u: Float[Tensor, "G D"]
    d: Float[Tensor, " G"]

    def member(self, which: Tensor) -> Nets:
        """Return the members at the given positions."""
        return Nets(self.a[:, which], *(p[which] for p in self[1:]))


class Fitted(NamedTuple):
    """G networks at the epoch where each was best on its validation points.

    Attributes:
        nets: the networks.
        index: positions of the n points they were trained on, in the order of ``nets.a``.
        best_epoch: ``(G,)``, from 1.
        error: ``(G,)``, share of wrong answers on the validation points then.
    """

    nets: Nets
    index: Int[Tensor, " n"]
    best_epoch: Int[Tensor, " G"]
    error: Float[Tensor, " G"]


def points(
    blocks: Iterable[Float[Tensor, "M f"]],
    num_training: int,
    num_features: int,
    num_hidden: int,
    seeds: Sequence[int],
) -> list[Points]:
    """Collect inner products and W_0 x from features that come in blocks of columns.

    Args:
        blocks: the columns of the feature matrix, ``(M, f)`` each.
        num_training: N, how many of the first rows may be trained on.
        num_features: all columns together, which sets the range of W_0: uniform in ±√(6/(in + out)).
        num_hidden: D.
        seeds: one W_0 each.

    Returns:
        :class:`Points` for each seed; all share their inner products.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    gram, bases, r = 0, [0] * len(generators), (6 / (num_features + num_hidden)) ** 0.5
    for block in blocks:
        gram = gram + block @ block[:num_training].mT
        for k, generator in enumerate(generators):
            W0 = r * (2 * torch.rand(num_hidden, block.shape[1], generator=generator, dtype=block.dtype) - 1)
            bases[k] = bases[k] + block @ W0.to(block.device).mT
    return [Points(gram, base) for base in bases]


def coordinates(gram: Float[Tensor, "N N"]) -> Float[Tensor, "N N"]:
    """Return points with the given inner products, as a triangle: all that a linear method can see.

    A millionth of the mean squared length is added to every squared length, so that copies of a point do no
    harm.
    """
    gram = gram.double()
    return torch.linalg.cholesky(gram + 1e-6 * gram.diagonal().mean() * torch.eye(len(gram)).to(gram))


def fresh(
    num_points: int, num_members: int, num_hidden: int, generator: torch.Generator, like: Tensor
) -> Nets:
    """Return the start of Algorithm 1, the same for every member: V uniform in ±√(6/(2 + D)), the rest 0.

    That a = 0 means W = W_0. Members differ only in what they are trained with, so they are paired.
    """
    G, D = num_members, num_hidden
    V = (6 / (2 + D)) ** 0.5 * (2 * torch.rand(2, D, generator=generator, dtype=like.dtype) - 1)
    zeros = [like.new_zeros(shape) for shape in [(num_points, G, D), (G, D), (G, 2), (G, D), (G,)]]
    a, b, c, u, d = zeros
    return Nets(a, b, V.to(like).expand(G, 2, D).clone(), c, u, d)


def hidden(nets: Nets, gram: Float[Tensor, "m n"], base: Float[Tensor, "m D"]) -> Float[Tensor, "m G D"]:
    """Return G_f(x) = sigm(W x + b), Eq. (4), with W x = W_0 x + Σ_k a_k ⟨x_k, x⟩.

    Args:
        nets: trained on n points.
        gram: inner products of m points with those n.
        base: W_0 x of the m points.
    """
    n, G, D = nets.a.shape
    return ((gram @ nets.a.view(n, G * D)).view(-1, G, D) + base.unsqueeze(1) + nets.b).sigmoid_()


def errors(
    nets: Nets, h: Float[Tensor, "m G D"], labels: Int[Tensor, "s G"], lam: Float[Tensor, " G"]
) -> tuple[Float[Tensor, "m G D"], Float[Tensor, "s G 2"], Float[Tensor, "m G"]]:
    """Return by how much Algorithm 1 blames every hidden unit, class and domain answer, a point at a time.

    Lines 9 to 31 with the gradient of each point kept apart; what they subtract from W is Σ δ xᵀ, from V
    Σ e_y hᵀ, from u Σ λ e_d h, each times the rate.

    Args:
        nets: G networks.
        h: hidden layers of m points, of which the first s are source and the others target points.
        labels: classes of the source points, 0 or 1, one column a member.
        lam: λ, at least 0. With λ = 0 this is the paper's NN: nothing of the domains reaches the features.

    Returns:
        δ ``(m, G, D)`` at the input of the hidden layer, e_y ``(s, G, 2)`` at the class scores, and λ e_d
        ``(m, G)`` at the domain score.
    """
    s = len(labels)
    e_y = (torch.einsum("mgd,gkd->mgk", h[:s], nets.V) + nets.c).softmax(-1)
    e_y -= one_hot(labels, 2)
    e_d = torch.einsum("mgd,gd->mg", h, nets.u).add_(nets.d).sigmoid_()
    e_d[s:] -= 1
    e_d = lam * e_d
    delta = -e_d.unsqueeze(-1) * nets.u  # minus: the features climb the domain loss (lines 22 and 31)
    delta[:s] += torch.einsum("mgk,gkd->mgd", e_y, nets.V)
    return delta.mul_(h * (1 - h)), e_y, e_d


def epoch(
    nets: Nets,
    data: Points,
    labels: Int[Tensor, "s G"],
    lam: Float[Tensor, " G"],
    *,
    learning_rate: float,
    batch: int,
    generator: torch.Generator,
) -> None:
    """Pass once over the source points in random order, a random target point beside each; changes ``nets``.

    Args:
        nets: G networks with coefficients for the n points of ``data``.
        data: inner products of n points with themselves; the first s are the source, the rest the target.
        labels: classes of the source points, one column a member.
        lam: λ, one a member.
        learning_rate: μ of Algorithm 1.
        batch: source points a step; 1 is Algorithm 1 as printed.
        generator: draws the order and the target points, the same for all members.
    """
    s, n = len(labels), len(data.gram)
    order = torch.randperm(s, generator=generator)
    beside = torch.randint(s, n, (s,), generator=generator)
    # DEPARTURE: the updates of `batch` pairs of points are summed, from where the first of them starts
    for source, target in zip(order.split(batch), beside.split(batch), strict=True):
        k = torch.cat([source, target]).to(data.gram.device)
        y = labels[k[: len(source)]]
        h = hidden(nets, data.gram[k], data.base[k])
        delta, e_y, e_d = errors(nets, h, y, lam)
        nets.a.index_add_(0, k, delta, alpha=-learning_rate)  # adds, as a target point may come up twice
        nets.b.sub_(delta.sum(0), alpha=learning_rate)
        nets.V.sub_(torch.einsum("mgk,mgd->gkd", e_y, h[: len(source)]), alpha=learning_rate)
        nets.c.sub_(e_y.sum(0), alpha=learning_rate)
        nets.u.sub_(torch.einsum("mg,mgd->gd", e_d, h), alpha=learning_rate)
        nets.d.sub_(e_d.sum(0), alpha=learning_rate)


def _classes(nets: Nets, h: Float[Tensor, "m G D"]) -> Int[Tensor, "m G"]:
    return (torch.einsum("mgd,gkd->mgk", h, nets.V) + nets.c).argmax(-1)


def fit(
    data: Points,
    source: Int[Tensor, " s"],
    labels: Int[Tensor, "s G"],
    target: Int[Tensor, " t"],
    held_out: Int[Tensor, " v"],
    held_labels: Int[Tensor, "v G"],
    lam: Float[Tensor, " G"],
    *,
    learning_rate: float = 1e-3,
    batch: int = 20,
    num_epochs: int = 200,
    patience: int = 30,
    seed: int = 0,
) -> Fitted:
    """Train G networks and stop each early (Sec. 5.1.2; the stopping rule is that of the authors' code).

    A member stops once it has run ``patience`` epochs and half as many again as its best one took; the others
    go on without it.

    Args:
        data: all points.
        source, target: positions of the points to train on, among the first N.
        labels: classes of the source points, one column a member (they differ where members label for
            themselves).
        held_out, held_labels: validation points and the classes that the members should give them.
        lam: λ, one a member.
        learning_rate: μ.
        batch: source points a step.
        num_epochs: passes over the source at most.
        patience: epochs at least, unless ``num_epochs`` is smaller.
        seed: of V and of the order of the points.

    Raises:
        UserError: if validation points are among the training points.
    """
    index = torch.cat([source, target])
    if torch.isin(held_out, index).any():
        raise UserError("validation points are among the training points: split them first")
    generator = torch.Generator().manual_seed(seed)
    own = Points(data.gram[index][:, index], data.base[index])
    check, check_base = data.gram[held_out][:, index], data.base[held_out]
    running = torch.arange(len(lam), device=lam.device)
    nets = fresh(len(index), len(lam), data.base.shape[1], generator, data.gram)
    best, error, when = Nets(*(p.clone() for p in nets)), torch.full_like(lam, 2.0), torch.zeros_like(running)
    for k in range(1, num_epochs + 1):
        options = {"learning_rate": learning_rate, "batch": batch, "generator": generator}
        epoch(nets, own, labels[:, running], lam[running], **options)
        wrong = _classes(nets, hidden(nets, check, check_base)) != held_labels[:, running]
        now = wrong.to(lam.dtype).mean(0)
        better = now < error[running]
        _keep(best, running[better], nets.member(better))
        error[running[better]], when[running[better]] = now[better], k
        on = k < torch.clamp(1.5 * when[running], min=patience)
        if not on.all():
            running, nets = running[on], nets.member(on)
        if not len(running):
            break
    return Fitted(best, index, when, error)


def _keep(best: Nets, where: Tensor, nets: Nets) -> None:
    best.a[:, where] = nets.a
    for kept, new in zip(best[1:], nets[1:], strict=True):
        kept[where] = new


def learner(data: Points, lam: Float[Tensor, " G"], **options) -> Callable:
    """Return what :func:`~reprobook.papers.dann.selection.reverse_validation` needs to train G networks.

    The learner keeps every :class:`Fitted` it makes in its list ``fits``, in order.
    """

    def learn(source, labels, target, held_out, held_labels):
        fitted = fit(data, source, labels, target, held_out, held_labels, lam, **options)
        learn.fits.append(fitted)

        def answer(where: Int[Tensor, " m"]) -> Int[Tensor, "m G"]:
            h = hidden(fitted.nets, data.gram[where][:, fitted.index], data.base[where])
            return _classes(fitted.nets, h)

        return answer

    learn.fits = []
    return learn

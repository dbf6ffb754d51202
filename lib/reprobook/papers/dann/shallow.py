"""The shallow network of Sec. 4.1 and its training by hand (Algorithm 1), many networks side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot, pad

from reprobook.device import stack_over_seeds
from reprobook.errors import UserError

__all__ = [
    "Shallow",
    "Epoch",
    "initial",
    "members",
    "features",
    "label_logits",
    "domain_logits",
    "losses",
    "gradients",
    "descended",
    "train",
    "last",
    "accuracy",
    "domain_accuracy",
]


class Shallow(NamedTuple):
    """B networks with m inputs, D hidden units and L classes, or a gradient of the same form.

    Attributes:
        W, b: the features, G_f(x) = sigm(W x + b).
        V, c: the label predictor, G_y(h) = softmax(V h + c).
        u, d: the domain regressor, G_d(h) = sigm(uᵀh + d), the probability that h comes from the target.
    """

    W: Float[Tensor, "B D m"]
    b: Float[Tensor, "B D"]
    V: Float[Tensor, "B L D"]
    c: Float[Tensor, "B L"]
    u: Float[Tensor, "B D"]
    d: Float[Tensor, " B"]


class Epoch(NamedTuple):
    """Where training stands after ``k`` passes over the source sample."""

    k: int
    state: Shallow


def initial(
    seeds: Sequence[int],
    num_inputs: int,
    num_hidden: int,
    num_classes: int = 2,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> Shallow:
    """Draw the start of Algorithm 1, one network a seed: W and V uniform in ±√(6/(in + out)), the rest 0.

    A seed's network does not depend on the others in the batch.
    """
    m, D, L = num_inputs, num_hidden, num_classes

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        def uniform(rows: int, columns: int) -> Tensor:
            r = (6 / (rows + columns)) ** 0.5
            return r * (2 * torch.rand(rows, columns, generator=generator, dtype=dtype) - 1)

        zeros = [torch.zeros(shape, dtype=dtype) for shape in [(D,), (L,), (D,), ()]]
        return uniform(D, m), zeros[0], uniform(L, D), *zeros[1:]

    return Shallow(*stack_over_seeds(draw, seeds, device))


def members(state: Shallow, which: Sequence[int] | slice) -> Shallow:
    """Return some of the networks of Sec. 4.1, in the order of their positions."""
    return Shallow(*(p[which] for p in state))


def features(state: Shallow, x: Float[Tensor, "B n m"]) -> Float[Tensor, "B n D"]:
    """Return G_f(x) = sigm(W x + b), Eq. (4)."""
    return torch.baddbmm(state.b.unsqueeze(1), x, state.W.mT).sigmoid_()


def label_logits(state: Shallow, h: Float[Tensor, "B n D"]) -> Float[Tensor, "B n L"]:
    """Return V h + c, whose softmax is the label predictor G_y(h) of Sec. 4.1."""
    return torch.baddbmm(state.c.unsqueeze(1), h, state.V.mT)


def domain_logits(state: Shallow, h: Float[Tensor, "B n D"]) -> Float[Tensor, "B n"]:
    """Return uᵀh + d, whose sigmoid is the domain regressor G_d(h), Eq. (7); positive says target."""
    return torch.baddbmm(state.d[:, None, None], h, state.u.unsqueeze(-1)).squeeze(-1)


def losses(
    state: Shallow, xs: Float[Tensor, "B n m"], ys: Int[Tensor, "B n"], xt: Float[Tensor, "B k m"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Return the two parts of Eq. (9), whose saddle point L_y - λ L_d is sought (Eq. 10).

    Args:
        state: B networks.
        xs, ys: source points and their classes.
        xt: target points; their classes have no place here.

    Returns:
        L_y, the mean over the source of -log G_y(x)_y, and L_d, the mean over the source of
        -log(1 - G_d(x)) plus the mean over the target of -log G_d(x); ``(B,)`` each.
    """
    hs, ht = features(state, xs), features(state, xt)
    label_loss = cross_entropy(label_logits(state, hs).mT, ys, reduction="none").mean(1)
    domain_loss = 0
    for h, domain in ((hs, torch.zeros_like), (ht, torch.ones_like)):
        logits = domain_logits(state, h)
        error = binary_cross_entropy_with_logits(logits, domain(logits), reduction="none")
        domain_loss = domain_loss + error.mean(1)
    return label_loss, domain_loss


def gradients(
    state: Shallow,
    xs: Float[Tensor, "B n m"],
    targets: Float[Tensor, "B n L"],
    xt: Float[Tensor, "B k m"],
    to_features: Float[Tensor, " B"],
    to_regressor: Float[Tensor, " B"],
) -> Shallow:
    """Return what Algorithm 1 subtracts from the parameters, times its rate: its derivatives, by hand.

    With n = k = 1 these are its Δ; with more, the mean over the n source points plus the mean over
    the k target points. W and b go down the label loss and *up* the domain loss of :func:`losses`; u and d
    go down the domain loss.

    Args:
        state: B networks.
        xs, targets: source points, and e(y), the row of the identity that belongs to their class.
        xt: target points.
        to_features: λ as the features see it (lines 22 and 31); 0 is the paper's NN, which skips these lines.
        to_regressor: λ as the domain regressor's own step sees it (Δu and Δd, Eq. 15).

    Returns:
        One tensor a parameter, in the shapes of the parameters.
    """
    # DEPARTURE: Algorithm 1 calls the source 1 and the target 0, the text (Sec. 4.1) the other way round,
    # which we follow; it only turns the signs of u and d.
    n, k = xs.shape[1], xt.shape[1]
    x = torch.cat([xs, xt], 1)
    h = features(state, x)
    hs = h[:, :n]
    ey = (label_logits(state, hs).softmax(-1) - targets) / n  # ∂L_y / ∂(V h + c)
    ed = domain_logits(state, h).sigmoid_()
    ed[:, n:] -= 1
    ed = torch.cat([ed[:, :n] / n, ed[:, n:] / k], 1)  # ∂L_d / ∂(uᵀh + d)
    pull = -(to_features * ed.mT).mT.unsqueeze(-1) * state.u.unsqueeze(1)  # the reversal: minus
    pull[:, :n] += ey @ state.V
    delta = pull * h * (1 - h)
    ed = (to_regressor * ed.mT).mT
    du = (ed.unsqueeze(1) @ h).squeeze(1)
    return Shallow(delta.mT @ x, delta.sum(1), ey.mT @ hs, ey.sum(1), du, ed.sum(1))


def descended(state: Shallow, step: Shallow, learning_rate: float) -> Shallow:
    """Return the parameters after one step against :func:`gradients`, with rate μ (end of Algorithm 1)."""
    return Shallow(*(p - learning_rate * s for p, s in zip(state, step, strict=True)))


def train(
    state: Shallow,
    xs: Float[Tensor, "B n m"],
    ys: Int[Tensor, "B n"],
    xt: Float[Tensor, "B k m"],
    seeds: Sequence[int],
    *,
    domain_weight: Float[Tensor, " B"],
    adversarial: Sequence[bool] | None = None,
    learning_rate: float,
    epochs: int,
    every: int = 1,
) -> Iterator[Epoch]:
    """Run Algorithm 1 on all networks side by side and yield them as they go.

    A step takes one source point, in an order drawn anew for each epoch, and one random target point. The
    classes of the target are no argument: nothing here could look at them.

    Args:
        state: where to start; not changed.
        xs, ys: the source sample of each network, and its classes, 0 to L - 1.
        xt: its target sample.
        seeds: one a network; networks of one seed meet the same points in the same order.
        domain_weight: λ of each network, at least 0.
        adversarial: whether a network's features feel the domain regressor (DANN, the default) or only the
            label loss (the paper's NN, which trains a domain regressor that nobody listens to).
        learning_rate: μ, positive.
        epochs: passes over the source sample, at least 0.
        every: yield every so many epochs; the first and the last are always shown.

    Yields:
        An :class:`Epoch` before the first step, then every ``every`` epochs, then after the last.

    Raises:
        UserError: if the sizes do not fit, a class is out of range, or λ is negative.
    """
    _check(state, xs, ys, xt, seeds, domain_weight)
    felt = torch.ones_like(domain_weight) if adversarial is None else domain_weight.new_tensor(adversarial)
    packed = _packed(state)
    streams = {s: torch.Generator().manual_seed(s + 2**31) for s in seeds}  # not the stream of `initial`
    for epoch in range(epochs + 1):
        if epoch % every == 0 or epoch == epochs:
            yield Epoch(epoch, _unpacked(*packed))
        if epoch < epochs:
            draws = {s: _order(g, xs.shape[1], xt.shape[1]) for s, g in streams.items()}
            order, partner = (torch.stack([draws[s][i] for s in seeds]).to(xs.device) for i in (0, 1))
            examples = _examples(xs, ys, xt, order, partner, packed[1].shape[0])
            _one_by_one(*packed, *examples, domain_weight * felt, domain_weight, learning_rate)


def last(epochs: Iterator[Epoch]) -> Shallow:
    """Run to the end and return the trained networks."""
    for epoch in epochs:
        end = epoch
    return end.state


def _check(state: Shallow, xs: Tensor, ys: Tensor, xt: Tensor, seeds: Sequence[int], weight: Tensor) -> None:
    networks, classes = len(state.W), state.V.shape[1]
    counts = {len(xs), len(ys), len(xt), len(seeds), len(weight)}
    if counts != {networks}:
        raise UserError(f"{networks} networks need as many samples, seeds and weights, got {sorted(counts)}")
    if xs.shape[2] != state.W.shape[2]:
        raise UserError(f"the networks take {state.W.shape[2]} inputs, but the points have {xs.shape[2]}")
    if not 0 <= int(ys.min()) <= int(ys.max()) < classes:
        raise UserError(f"classes go from 0 to {classes - 1}, got {int(ys.min())} to {int(ys.max())}")
    if bool((weight < 0).any()):
        raise UserError("λ is at least 0: a negative one would help the domain regressor")


def _order(generator: torch.Generator, n: int, k: int) -> tuple[Tensor, Tensor]:
    """Draw the order of the source points of one epoch, and a target point for each."""
    # DEPARTURE: Algorithm 1 goes through the source in the order in which it is stored
    return torch.randperm(n, generator=generator), torch.randint(k, (n,), generator=generator)


# --------------------------------------------------------------------------- the same steps, fast

# Single examples are too little work for matrix products. Here the networks stand last, where arithmetic runs
# along them; the two points of a step stand first, source before target; biases weigh an input of 1; and
# the domain regressor is one more output. The tests hold this against `gradients`, step by step.


def _packed(state: Shallow) -> tuple[Tensor, Tensor]:
    """Return [W b], ``(D, m + 1, B)``, and [V c; uᵀ d], ``(L + 1, D + 1, B)``."""
    lower = torch.cat([state.W, state.b.unsqueeze(-1)], 2)
    label = torch.cat([state.V, state.c.unsqueeze(-1)], 2)
    domain = torch.cat([state.u, state.d.unsqueeze(-1)], 1).unsqueeze(1)
    return lower.permute(1, 2, 0).contiguous(), torch.cat([label, domain], 1).permute(1, 2, 0).contiguous()


def _unpacked(lower: Tensor, upper: Tensor) -> Shallow:
    """Return a copy of packed networks in the usual form."""
    lower, upper = lower.permute(2, 0, 1).clone(), upper.permute(2, 0, 1).clone()
    parts = lower[..., :-1], lower[..., -1], upper[:, :-1, :-1], upper[:, :-1, -1], upper[:, -1, :-1]
    return Shallow(*(p.contiguous() for p in parts), upper[:, -1, -1].contiguous())


def _examples(
    xs: Tensor, ys: Tensor, xt: Tensor, order: Tensor, partner: Tensor, outputs: int
) -> tuple[Tensor, Tensor]:
    """Return an epoch's pairs, ``(n, 2, m + 1, B)``, and what the outputs should be, ``(n, 2, L + 1, B)``."""
    pairs = [x.take_along_dim(i.unsqueeze(-1), 1) for x, i in ((xs, order), (xt, partner))]
    inputs = pad(torch.stack(pairs, 2), (0, 1), value=1.0)
    label = one_hot(ys.gather(1, order), outputs)
    domain = one_hot(torch.full_like(order, outputs - 1), outputs)
    wanted = torch.stack([label, domain], 2).to(xs.dtype)
    return inputs.permute(1, 2, 3, 0).contiguous(), wanted.permute(1, 2, 3, 0).contiguous()


@torch.inference_mode()
def _one_by_one(
    lower: Tensor,
    upper: Tensor,
    pairs: Tensor,
    wanted: Tensor,
    to_features: Tensor,
    to_regressor: Tensor,
    learning_rate: float,
) -> None:
    """Take one step of Algorithm 1 a pair; the packed networks are changed in place."""
    D, L = lower.shape[0], upper.shape[0] - 1
    h1 = torch.ones_like(pairs[0, :, :1]).expand(2, D + 1, -1).clone()
    h, error = h1[:, :D], torch.zeros_like(wanted[0])  # a target point has no label error: those stay 0
    share = torch.ones_like(wanted[0, 0])
    share[L] = to_regressor
    pull = torch.ones_like(share)
    pull[L] = -to_features
    for x, y in zip(pairs.unbind(), wanted.unbind(), strict=True):
        torch.sigmoid((lower * x.unsqueeze(1)).sum(2), out=h)
        logits = (upper * h1.unsqueeze(1)).sum(2)
        torch.softmax(logits[0, :L], 0, out=error[0, :L])
        torch.sigmoid(logits[:, L], out=error[:, L])
        error -= y
        delta = ((error * pull).unsqueeze(2) * upper[:, :D]).sum(1)
        delta *= h.addcmul(h, h, value=-1)
        step = error * share
        for i in (0, 1):
            lower.addcmul_(delta[i].unsqueeze(1), x[i], value=-learning_rate)
            upper.addcmul_(step[i].unsqueeze(1), h1[i], value=-learning_rate)


# --------------------------------------------------------------------------- how good is it?


def accuracy(state: Shallow, x: Float[Tensor, "B n m"], y: Int[Tensor, "B n"]) -> Float[Tensor, " B"]:
    """Return the share of points whose most probable class, argmax G_y(G_f(x)), is theirs (Fig. 2)."""
    return (label_logits(state, features(state, x)).argmax(-1) == y).to(x.dtype).mean(1)


def domain_accuracy(
    state: Shallow, xs: Float[Tensor, "B n m"], xt: Float[Tensor, "B k m"]
) -> Float[Tensor, " B"]:
    """Return how often the domain regressor is right, each domain counting half: 1/2 is guessing (Fig. 2).

    As in Sec. 5.1.1, a point is called source if the regressor is undecided.
    """
    right = [domain_logits(state, features(state, xs)) <= 0, domain_logits(state, features(state, xt)) > 0]
    return sum(r.to(xs.dtype).mean(1) for r in right) / 2

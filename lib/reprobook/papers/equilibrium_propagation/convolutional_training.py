"""Training the convolutional network, with a penalty on its asymmetry that depends on the state.

The homeostatic penalty of a convolutional network has no closed form in the weights, so it is estimated at
every batch's fixed point from random directions ε, and its gradient with respect to the kernels is taken
with the state held constant (Laborieux and Zenke, arXiv 2309.02214, Fig. 4i-l and Table 2).

Any multiple of the identity, or any diagonal, may be added to J without changing its antisymmetric part A.
With S the rest, one draw of ‖Jε‖² - εᵀJ²ε = -2 εᵀAJε has mean 2‖A‖² and variance 8‖A²‖² + 2‖AS - SA‖²: the
symmetric part teaches nothing and adds noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from reprobook.data.builtin import handwritten_digits
from reprobook.data.cifar10 import load_cifar10
from reprobook.data.cifar100 import load_cifar100
from reprobook.data.imagenet32 import load_imagenet32
from reprobook.papers.equilibrium_propagation.convolutional import Convolutional, Linearised, Weights
from reprobook.papers.equilibrium_propagation.errors import gradients
from reprobook.papers.equilibrium_propagation.homeostasis import penalty_estimate
from reprobook.papers.equilibrium_propagation.relaxation import Layers, Settled, readout, relax
from reprobook.papers.equilibrium_propagation.training import Method, Progress, error_of

__all__ = [
    "ESTIMATORS",
    "ImageRecipe",
    "asymmetry_share",
    "asymmetry_slope",
    "cosines",
    "draw_variance",
    "error_at",
    "load_normalised",
    "shifted",
    "train_convolutional",
    "wrong_share",
]

Estimator = Callable[[Linearised, torch.Generator, int], Tensor]


def _from_products(lens: Linearised, generator: torch.Generator, draws: int) -> Float[Tensor, "M B"]:
    """Return the paper's estimate; the diagonal of J, which is symmetric, is left out."""
    # DEPARTURE: W in place of J = W - diag(1/φ′): the same mean, less noise
    return penalty_estimate(lens.push, lens.r, generator, draws)


def _from_differences(lens: Linearised, generator: torch.Generator, draws: int) -> Float[Tensor, "M B"]:
    """Return the mean of Σ‖(F - B)ε‖²: the same number without the symmetric part (our variant)."""
    total = torch.zeros(lens.r[0].shape[:2]).to(lens.r[0])
    for _ in range(draws):
        e = [torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device) for p in lens.r]
        total = total + sum(part.square().flatten(2).sum(-1) for part in lens.differences(e))
    return total / draws


#: Unbiased estimates of 2‖A‖² for each image: ``products``, the paper's, two products with W a draw;
#: ``differences``, of the stages both ways, one product with each stage a draw.
ESTIMATORS: dict[str, Estimator] = {"products": _from_products, "differences": _from_differences}


def draw_variance(w: Float[Tensor, "*batch N N"]) -> Float[Tensor, "*batch"]:
    """Return 8‖A²‖² + 2‖AS - SA‖², the variance of one draw of ‖wε‖² - εᵀw²ε (the paper's estimate)."""
    s, a = (w + w.mT) / 2, (w - w.mT) / 2
    return 8 * (a @ a).square().sum((-2, -1)) + 2 * (a @ s - s @ a).square().sum((-2, -1))


def asymmetry_slope(
    net: Convolutional,
    r: Layers,
    strength: Float[Tensor, " M"],
    generator: torch.Generator,
    *,
    draws: int = 5,
    estimator: str = "products",
) -> Weights:
    """Return the gradient of strength · mean over images of 2‖A‖², estimated at fixed activities (the paper).

    Args:
        net: M networks.
        r: activities, held constant.
        strength: a factor for each member.
        generator: on the CPU.
        draws: of ε for each image.
        estimator: a key of :data:`ESTIMATORS`.

    Returns:
        A slope for every kernel that the penalty depends on, so not those of layer 1, and for no bias.
    """
    names = [name for name in net.weights if name[:5] in ("forth", "back ") and not name.endswith(" 1")]
    kernels = {name: net.weights[name].detach().requires_grad_() for name in names}
    with torch.enable_grad():
        lens = replace(net, weights={**net.weights, **kernels}).linearised(r)
        value = (strength * ESTIMATORS[estimator](lens, generator, draws).mean(1)).sum()
    return dict(zip(names, torch.autograd.grad(value, list(kernels.values())), strict=True))


@dataclass(frozen=True)
class ImageRecipe:
    """How convolutional networks are trained; defaults as in the paper's Fig. 4i-l, as far as known.

    Attributes:
        epochs: passes through the data.
        batch: images a step.
        free_steps: of settling without a nudge.
        learning_rate: of SGD at the start; it follows half a cosine down to zero.
        rates: factors on it, for each layer and for the readout.
        momentum, weight_decay: of SGD.
        augment: mirror half of the images, and move each by up to so many pixels; 0 does neither.
        draws, estimator: of the penalty.
        tolerance: stop settling when no activity moves more than this; 0 takes all steps.
    """

    epochs: int
    batch: int = 256
    free_steps: int = 250
    learning_rate: float = 5e-3
    rates: tuple[float, ...] = (25.0, 15.0, 10.0, 8.0, 5.0)
    momentum: float = 0.9  # DEPARTURE: the value is not known
    weight_decay: float = 1e-4
    augment: int = 0
    draws: int = 5
    estimator: str = "products"
    tolerance: float = 0.0

    def rate(self, name: str) -> float:
        """Return the learning rate of a weight by its name."""
        last = name.split()[-1]
        return self.learning_rate * self.rates[int(last) - 1 if last.isdigit() else -1]


def error_at(method: Method, net: Convolutional, x: Tensor, settled: Settled, target: Tensor) -> Layers:
    """Return a method's error signal as :func:`~.training.error_of` does, with one derivative at r.

    The linear dynamics (the paper's true derivative) asks for twenty products at one state.
    """
    linear = method.name in ("derivative", "recurrent")
    return error_of(method, net.held_at(settled.r) if linear else net, x, settled, target)


def train_convolutional(
    net: Convolutional,
    images: Float[Tensor, "n C H W"],
    labels: Int[Tensor, " n"],
    recipe: ImageRecipe,
    method: Method,
    *,
    homeostasis: Sequence[float],
    seeds: Sequence[int],
) -> Iterator[Progress]:
    """Train M networks in place by the paper's Fig. 4i-l; yield after every step.

    Args:
        net: in the precision and on the device of the images.
        images, labels: to learn.
        recipe, method: how.
        homeostasis: λ of each member; the penalty is divided by the number of neurons.
        seeds: of the order of the data, one a member; members of one seed see the same batches.
    """
    groups = [{"params": [w], "lr": recipe.rate(name)} for name, w in net.weights.items()]
    optimiser = torch.optim.SGD(groups, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    total = recipe.epochs * (len(images) // recipe.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)
    strength = torch.tensor(homeostasis, dtype=images.dtype, device=images.device)
    onehot = F.one_hot(labels, net.weights["readout"].shape[1]).to(images)
    luck = torch.Generator().manual_seed(seeds[0])
    for step, chosen in enumerate(_batches(len(images), recipe, seeds), 1):
        x, target = images[chosen.to(images.device)], onehot[chosen.to(images.device)]
        x = shifted(x, recipe.augment, luck)
        settled = relax(net, x, steps=recipe.free_steps, tolerance=recipe.tolerance)
        slopes = gradients(net, x, settled, target, error_at(method, net, x, settled, target))
        if strength.any():
            neurons = sum(r[0, 0].numel() for r in settled.r)
            words = {"draws": recipe.draws, "estimator": recipe.estimator}
            for name, slope in asymmetry_slope(net, settled.r, strength / neurons, luck, **words).items():
                slopes[name] = slopes[name] + slope
        for name, weight in net.weights.items():
            weight.grad = slopes[name]
        optimiser.step()
        schedule.step()
        loss = -(target * readout(net, settled.r).clamp(min=1e-30).log()).sum(-1).mean(-1)
        yield Progress(step, loss, (settled.moved > 1e-3).to(x).mean(-1))


def cosines(net: Convolutional, x: Tensor, settled: Settled, target: Tensor) -> Float[Tensor, "M L"]:
    """Return the cosine between d_β r and δ in each layer, a mean over images (as in Fig. 4)."""
    found = []
    for measured, wanted in zip(
        error_at(Method("derivative"), net, x, settled, target),
        error_at(Method("recurrent"), net, x, settled, target),
        strict=True,
    ):
        found.append(torch.cosine_similarity(measured.flatten(2), wanted.flatten(2), dim=-1).mean(1))
    return torch.stack(found, -1)


def asymmetry_share(
    net: Convolutional, r: Layers, generator: torch.Generator, draws: int = 20
) -> Float[Tensor, " M"]:
    """Return ‖A‖²/‖W‖² of the derivative W of what layers receive, estimated over images (Fig. 4's question).

    It is 0 for equal kernels and just below a half for independent ones of one size.
    """
    lens = net.linearised(r)
    antisymmetric = _from_differences(lens, generator, draws).mean(1) / 2
    total = torch.zeros_like(antisymmetric)
    for _ in range(draws):
        e = [torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device) for p in r]
        total = total + sum(p.square().flatten(2).sum(-1) for p in lens.push(e)).mean(1)
    return antisymmetric / (total / draws)


def _batches(num: int, recipe: ImageRecipe, seeds: Sequence[int]) -> Iterator[Int[Tensor, "M B"]]:
    """Yield the images of each step by number, in each member's own order; a last short batch is left out."""
    for epoch in range(recipe.epochs):
        draws = [torch.Generator().manual_seed(1000 * seed + epoch) for seed in seeds]
        orders = torch.stack([torch.randperm(num, generator=draw) for draw in draws])
        yield from orders[:, : num - num % recipe.batch].split(recipe.batch, 1)


def shifted(
    x: Float[Tensor, "M B C H W"], reach: int, generator: torch.Generator
) -> Float[Tensor, "M B C H W"]:
    """Return images of which half are mirrored, each cut at random out of its padded self (Table 2).

    Args:
        x: images; all members' image b is treated alike.
        reach: largest shift in pixels in each direction; 0 returns x as it is.
        generator: on the CPU.
    """
    if not reach:
        return x
    batch, side = x.shape[1], x.shape[-1]
    mirrored = torch.rand(batch, generator=generator).to(x.device) < 0.5
    x = torch.where(mirrored[None, :, None, None, None], x.flip(-1), x)
    corner = torch.randint(2 * reach + 1, (2, batch), generator=generator).to(x.device)
    rows, columns = corner[..., None] + torch.arange(side, device=x.device)
    padded = F.pad(x, (reach,) * 4).movedim(2, -1)
    picked = torch.arange(batch, device=x.device)[:, None, None]
    return padded[:, picked, rows[:, :, None], columns[:, None, :]].movedim(-1, 2)


@torch.no_grad()
def wrong_share(
    net: Convolutional,
    images: Float[Tensor, "n C H W"],
    labels: Int[Tensor, " n"],
    *,
    steps: int = 250,
    batch: int = 500,
    tolerance: float = 0.0,
) -> Float[Tensor, " M"]:
    """Return the share of wrong answers of each member (the paper's Table 2)."""
    wrong, members = 0.0, len(net.weights["readout"])
    for x, y in zip(images.split(batch), labels.split(batch), strict=True):
        settled = relax(net, x.expand(members, *x.shape), steps=steps, tolerance=tolerance)
        wrong = wrong + (readout(net, settled.r).argmax(-1) != y).to(x).sum(-1)
    return wrong / len(images)


_PHOTOGRAPHS = {"cifar10": load_cifar10, "cifar100": load_cifar100, "imagenet32": load_imagenet32}


def load_normalised(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images and labels and held-out ones, channels centred and divided by 1.5 deviations.

    The factor makes the inputs fit the activation (Table 2's networks).

    Args:
        name: ``digits``, every sixth of scikit-learn's held out, or ``cifar10``, ``cifar100`` or
            ``imagenet32`` with their published splits.

    Returns:
        Images ``(n, C, H, W)`` in single precision, labels ``(n,)``, and the same held out.
    """
    if name == "digits":
        both = handwritten_digits()
        out = torch.arange(len(both)) % 6 == 5
        pixels, labels = torch.from_numpy(both.images).float(), torch.from_numpy(both.labels)
        parts = [pixels[~out], labels[~out], pixels[out], labels[out]]
    else:
        sets = [_PHOTOGRAPHS[name](split) for split in ("train", "test")]
        parts = [torch.from_numpy(a) for s in sets for a in (s.images.astype("float32"), s.labels)]
    centre = parts[0].mean((0, 2, 3), keepdim=True)
    width = 1.5 * parts[0].std((0, 2, 3), keepdim=True)
    return (parts[0] - centre) / width, parts[1], (parts[2] - centre) / width, parts[3]

"""Training a deep network with and without adaptation (Sec. 4.2, Sec. 5.2.2).

One loop serves the three trainings that Table 2 compares: source only (no target images), DANN, and
train on target (the target's labelled images in place of the source). It never sees a target label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from reprobook.papers.dann.networks import ARCHITECTURES, DomainAdversarialNet
from reprobook.papers.dann.reversal import domain_weight, learning_rate

__all__ = ["Recipe", "RECIPES", "Labelled", "Progress", "train", "losses", "predict", "accuracy", "shuffled"]


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the paper's where it states them (Sec. 5.2.2).

    Attributes:
        architecture: a key of :data:`reprobook.papers.dann.networks.ARCHITECTURES`.
        size: side of the images, pixels. Not stated in the paper.
        half_batch: labelled images a step, and as many target images.
        optimizer: ``sgd`` with momentum and the falling rate μ_p, or ``adam`` with a constant rate.
        first_rate: μ_0, or Adam's rate.
        momentum: of SGD.
        domain_loss: factor on the domain loss as a whole, so on G_d's own gradient too. Not stated.
        lambda_max: factor on λ_p, so on what reaches the features only; 1 in the paper.
        initialisation: ``torch``'s default or ``xavier``. Not stated.
        batch_norm: ``none``; or, not in the paper, ``together`` (statistics of source and target images
            in one batch) or ``apart`` (each domain passes the network by itself).
        brightness: what white is after scaling, before the mean is subtracted: 1 or 255. Not stated.
        centring: whose mean is subtracted, pixel by pixel: that of ``both`` domains together, or each
            domain's ``own``. Not stated.
    """

    architecture: str = "mnist"
    size: int = 28
    half_batch: int = 64
    optimizer: str = "sgd"
    first_rate: float = 0.01
    momentum: float = 0.9
    domain_loss: float = 1.0
    lambda_max: float = 1.0
    initialisation: str = "torch"
    batch_norm: str = "none"
    brightness: float = 1.0
    centring: str = "both"


RECIPES = {
    "printed": Recipe(),
    "gentle": Recipe(domain_loss=0.1),
    "modern": Recipe(optimizer="adam", first_rate=1e-3, batch_norm="apart", domain_loss=0.1),
}


class Labelled(NamedTuple):
    """Images with their labels: uint8 ``(N, 3, H, W)`` and int64 ``(N,)``, kept on the device."""

    images: UInt8[Tensor, "num 3 height width"]
    labels: Int[Tensor, " num"]


class Progress(NamedTuple):
    """Where a training stands.

    Attributes:
        step: steps done.
        net: the network, in the middle of its training.
        centres: the means to be subtracted from source and from target images, ``(2, 3, H, W)``.
        label_loss: cross-entropy of the last batch, nats.
        domain_loss: the domain's loss of the last batch, nats, the two domains' means added (Eq. 9); two
            times log 2 says that the domains cannot be told apart. 0 without adaptation.
    """

    step: int
    net: DomainAdversarialNet
    centres: Float[Tensor, "2 3 height width"]
    label_loss: float
    domain_loss: float


def train(
    labelled: Labelled,
    unlabelled: UInt8[Tensor, "num_target 3 height width"] | None,
    recipe: Recipe,
    steps: int,
    seed: int,
    *,
    every: int = 0,
    precision: str = "fp32",
    compiled: bool = False,
) -> Iterator[Progress]:
    """Train, and yield the progress every so many steps and at the end.

    Args:
        labelled: the source's labelled images; for "train on target" the target's.
        unlabelled: the target's images for DANN; None for no adaptation. On the device of ``labelled``.
        recipe: how.
        steps: how many steps, > 0; λ_p and μ_p run from p = 0 to 1 in as many.
        seed: of initialisation and order.
        every: steps between two reports; 0 for one report at the end.
        precision: ``fp32``, or ``bf16`` for convolutions and products in bfloat16 (weights stay fp32).
        compiled: whether ``torch.compile`` translates the network first.
    """
    device = labelled.images.device
    net, optimizer = _prepare_net(recipe, seed, device)
    forward = torch.compile(net) if compiled else net
    centres = mean_images(labelled.images, unlabelled, recipe)
    order = torch.Generator().manual_seed(seed)
    sources = shuffled(len(labelled.images), recipe.half_batch, order)
    targets = None if unlabelled is None else shuffled(len(unlabelled), recipe.half_batch, order)
    for step in range(steps):
        p = step / steps
        if recipe.optimizer == "sgd":
            optimizer.param_groups[0]["lr"] = learning_rate(p, recipe.first_rate)
        chosen = next(sources)
        source = prepared(labelled.images[chosen], centres[0], recipe)
        target = None if targets is None else prepared(unlabelled[next(targets)], centres[1], recipe)
        weight = recipe.lambda_max * domain_weight(p)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            label_loss, domain_loss = losses(
                forward, source, target, labelled.labels[chosen], weight, recipe.batch_norm != "apart"
            )
        optimizer.zero_grad()
        (label_loss + recipe.domain_loss * domain_loss).backward()
        optimizer.step()
        if step + 1 == steps or (every and (step + 1) % every == 0):
            yield Progress(step + 1, net, centres, label_loss.item(), domain_loss.item())


def losses(
    net: nn.Module,
    source: Float[Tensor, "num_source 3 height width"],
    target: Float[Tensor, "num_target 3 height width"] | None,
    labels: Int[Tensor, " num_source"],
    weight: float,
    together: bool = True,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the two losses of Eq. (9); their sum is what is descended, because the reversal turns the sign.

    Args:
        net: returns the logits of labels and of domain, as :class:`DomainAdversarialNet` does.
        source, target: prepared images; no target for training without adaptation.
        labels: of the source images.
        weight: λ.
        together: whether both domains pass the network as one batch.

    Returns:
        The mean cross-entropy of the labels over the source, and the mean domain loss over the source
        plus that over the target; the latter is 0 where there is no target.
    """
    # DEPARTURE: Eq. (18) prints a minus before λ although the reversal turns the sign already; we add.
    if target is None or not together:
        of_labels, of_source = net(source, weight)
        of_target = None if target is None else net(target, weight)[1]
    else:
        of_labels, of_domains = net(torch.cat([source, target]), weight)
        of_labels, (of_source, of_target) = (
            of_labels[: len(source)],
            of_domains.split([len(source), len(target)]),
        )
    of_labels = _exact(of_labels)
    label_loss = cross_entropy(of_labels, labels)
    if of_target is None:
        return label_loss, torch.zeros_like(label_loss)
    of_source, of_target = _exact(of_source), _exact(of_target)
    loss_source = binary_cross_entropy_with_logits(of_source, torch.zeros_like(of_source))
    loss_target = binary_cross_entropy_with_logits(of_target, torch.ones_like(of_target))
    return label_loss, loss_source + loss_target


def _exact(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return logits in single precision if they come in half, so that a loss is computed exactly."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def mean_images(
    source: UInt8[Tensor, "num_source 3 height width"],
    target: UInt8[Tensor, "num_target 3 height width"] | None,
    recipe: Recipe,
) -> Float[Tensor, "2 3 height width"]:
    """Return the mean image that is subtracted from the source, and from the target (Sec. 5.2.2)."""
    means = [
        sum(part.float().sum(0) for part in x.split(1000))
        / len(x)  # in parts: floats take four times the room
        for x in ([source] if target is None else [source, target])
    ]
    means = means if recipe.centring == "own" else [sum(means) / len(means)]
    return torch.stack([means[0], means[-1]]) * (recipe.brightness / 255)


def prepared(
    images: UInt8[Tensor, "batch 3 height width"], centre: Float[Tensor, "3 height width"], recipe: Recipe
) -> Float[Tensor, "batch 3 height width"]:
    """Return images as the network takes them: scaled, and their domain's mean subtracted."""
    scaled = images.float().mul_(recipe.brightness / 255).sub_(centre)
    return scaled.contiguous(memory_format=torch.channels_last)


def shuffled(num: int, size: int, generator: torch.Generator) -> Iterator[Int[Tensor, " size"]]:
    """Yield batches of indices for ever, each pass in a new order; a last batch too small is left out."""
    size = min(size, num)
    while True:
        yield from torch.randperm(num, generator=generator).split(size)[: num // size]


@torch.no_grad()
def predict(
    progress: Progress,
    images: UInt8[Tensor, "num 3 height width"],
    recipe: Recipe,
    domain: int,
    what: str = "logits",
) -> Float[Tensor, "num outputs"]:
    """Return what the network says of images, in evaluation mode.

    Args:
        progress: as :func:`train` yields it.
        images: any number.
        recipe: that of the training.
        domain: 0 if they are of the source, 1 of the target; it matters only for ``centring="own"``.
        what: ``logits`` of the labels, ``domain`` logits, ``features``, or ``penultimate``, the last
            hidden layer of the label classifier.
    """
    net = progress.net.eval()
    of = {
        "logits": lambda x: net(x)[0],
        "domain": lambda x: net(x)[1].unsqueeze(1),
        "features": net.embed,
        "penultimate": lambda x: net.embed(x, "penultimate"),
    }[what]
    found = torch.cat([of(prepared(x, progress.centres[domain], recipe)) for x in images.split(500)])
    net.train()
    return found


def accuracy(progress: Progress, data: Labelled, recipe: Recipe, domain: int = 1) -> float:
    """Return the share of images, in [0, 1], that get their label; arguments as in :func:`predict`."""
    logits = predict(progress, data.images, recipe, domain)
    return (logits.argmax(1) == data.labels).double().mean().item()


def _prepare_net(
    recipe: Recipe, seed: int, device: torch.device
) -> tuple[DomainAdversarialNet, torch.optim.Optimizer]:
    """Return a fresh network and its optimiser; the same numbers on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = DomainAdversarialNet(ARCHITECTURES[recipe.architecture], recipe.size, recipe.batch_norm)
        if recipe.initialisation == "xavier":
            for layer in net.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)
    net = net.to(device, memory_format=torch.channels_last)
    if recipe.optimizer == "adam":
        return net, torch.optim.Adam(net.parameters(), recipe.first_rate)
    return net, torch.optim.SGD(net.parameters(), recipe.first_rate, recipe.momentum)

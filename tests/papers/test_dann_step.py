"""A training step of deep DANN, recomputed by hand: no reversal layer, no optimiser, no module of ours."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, cross_entropy, linear, max_pool2d, softplus

from reprobook.papers.dann.networks import ARCHITECTURES, DomainAdversarialNet
from reprobook.papers.dann.training import Labelled, Progress, Recipe, losses, train

SMALL = Recipe(architecture="small", size=16, half_batch=8)
EXACT = 1e-12  # all of it is computed in float64
PARTS = ("features", "label_head", "domain_head")


def noise(num: int, seed: int, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (num, 3, size, size), generator=generator, dtype=torch.uint8)


def data(num: int = 40) -> tuple[Labelled, Tensor]:
    """Return labelled source images and darker target images, more than three batches of each."""
    labels = torch.randint(10, (num,), generator=torch.Generator().manual_seed(3))
    return Labelled(noise(num, 1), labels), noise(num, 2) // 2


def end(recipe: Recipe, steps: int = 3, seed: int = 0, **options) -> Progress:
    """Return the progress at the end of a training of a few steps."""
    labelled, unlabelled = data()
    *_, last = train(labelled, options.pop("unlabelled", unlabelled), recipe, steps, seed, **options)
    return last


def weights(net: DomainAdversarialNet) -> dict[str, Tensor]:
    return {name: w.detach().clone() for name, w in net.named_parameters()}


# --------------------------------------------------------------------------- the step by hand, float64


def features_by_hand(w: dict[str, Tensor], images: Tensor) -> Tensor:
    """Return the features of the net ``small``: two convolutions with ReLU and pooling."""
    x = images
    for layer in (0, 3):
        x = conv2d(x, w[f"features.{layer}.weight"], w[f"features.{layer}.bias"]).clamp(min=0)
        x = max_pool2d(x, 2, 2)
    return x.flatten(1)


def head_by_hand(w: dict[str, Tensor], head: str, features: Tensor) -> Tensor:
    hidden = linear(features, w[f"{head}.0.weight"], w[f"{head}.0.bias"]).clamp(min=0)
    return linear(hidden, w[f"{head}.2.weight"], w[f"{head}.2.bias"])


def losses_by_hand(w: dict[str, Tensor], source: Tensor, labels: Tensor, target: Tensor):
    """Return label loss and domain loss (Eq. 9); a source image is domain 0, a target image domain 1."""
    f_source, f_target = features_by_hand(w, source), features_by_hand(w, target)
    of_source, of_target = (head_by_hand(w, "domain_head", f).squeeze(1) for f in (f_source, f_target))
    label_loss = cross_entropy(head_by_hand(w, "label_head", f_source), labels)
    return label_loss, softplus(of_source).mean() + softplus(-of_target).mean()


def gradient_by_hand(w, source, labels, target, weight: float, domain_loss: float = 1.0) -> dict[str, Tensor]:
    """Return what each parameter descends along (Eqs. 13-15): G_f along L_y - λ L_d, heads along their own.

    The two losses are differentiated apart, and the minus before λ stands where the paper has it.
    """
    w = {name: value.clone().requires_grad_() for name, value in w.items()}
    label_loss, of_domain = losses_by_hand(w, source, labels, target)
    along_y = torch.autograd.grad(label_loss, w.values(), retain_graph=True, materialize_grads=True)
    along_d = torch.autograd.grad(domain_loss * of_domain, w.values(), materialize_grads=True)
    signs = [-weight if name.startswith("features") else 1.0 for name in w]
    return {name: y + sign * d for name, y, sign, d in zip(w, along_y, signs, along_d, strict=True)}


def trained_by_hand(recipe: Recipe, steps: int, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights before and after a training: order, means, schedules and momentum by hand."""
    labelled, unlabelled = data()
    torch.manual_seed(seed)
    net = DomainAdversarialNet(ARCHITECTURES[recipe.architecture], recipe.size)
    before = w = {name: value.double() for name, value in weights(net).items()}
    images = [labelled.images.double() / 255, unlabelled.double() / 255]
    mean = (images[0].mean(0) + images[1].mean(0)) / 2
    order = torch.Generator().manual_seed(seed)
    of_source, of_target = (torch.randperm(len(x), generator=order) for x in images)
    velocity = {name: torch.zeros_like(value) for name, value in w.items()}
    for step in range(steps):
        p = torch.tensor(step / steps, dtype=torch.float64)
        weight = recipe.lambda_max * (2 / (1 + torch.exp(-10 * p)) - 1)
        rate = recipe.first_rate / (1 + 10 * p) ** 0.75
        chosen = slice(step * recipe.half_batch, (step + 1) * recipe.half_batch)
        s, t = of_source[chosen], of_target[chosen]
        gradient = gradient_by_hand(
            w, images[0][s] - mean, labelled.labels[s], images[1][t] - mean, weight, recipe.domain_loss
        )
        velocity = {name: recipe.momentum * velocity[name] + gradient[name] for name in w}
        w = {name: w[name] - rate * velocity[name] for name in w}
    return before, w


def change(before: dict[str, Tensor], after: dict[str, Tensor], part: str) -> float:
    """Return the largest change of a weight in a part of the net."""
    return max((after[n] - before[n]).abs().max().item() for n in before if n.startswith(part))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("domain_loss", [1.0, 0.25])
def test_every_weight_moves_by_one_step_as_computed_by_hand(weight, domain_loss):
    torch.manual_seed(1)
    net = DomainAdversarialNet(ARCHITECTURES["small"]).double()
    before = weights(net)
    labelled, unlabelled = data(8)
    source, target = labelled.images.double() / 255 - 0.5, unlabelled.double() / 255 - 0.5
    along = gradient_by_hand(before, source, labelled.labels, target, weight, domain_loss)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    label_loss, of_domain = losses(net, source, target, labelled.labels, weight)
    (label_loss + domain_loss * of_domain).backward()
    optimizer.step()
    for name, after in weights(net).items():
        torch.testing.assert_close(after, before[name] - 0.1 * along[name], rtol=0, atol=EXACT, msg=name)
        assert not torch.equal(after, before[name]), f"{name} did not move"


@pytest.mark.parametrize(
    "recipe",
    [
        SMALL,
        Recipe("small", 16, 8, lambda_max=0.5),
        Recipe("small", 16, 8, domain_loss=0.1, momentum=0.5, first_rate=0.1),
    ],
    ids=["paper", "half the reversal", "a tenth of the domain loss"],
)
def test_a_whole_training_of_three_steps_is_the_one_computed_by_hand(recipe):
    before, by_hand = trained_by_hand(recipe, 3, seed=0)
    after = weights(end(recipe).net)
    for name, value in after.items():
        torch.testing.assert_close(value.double(), by_hand[name], rtol=0, atol=2e-7, msg=name)
    for part in PARTS:  # what is allowed is far below what has happened
        assert change(before, by_hand, part) > 1e-4


def test_one_batch_of_both_domains_gives_the_gradient_of_two_batches():
    labelled, unlabelled = data(8)
    source, target = labelled.images.double() / 255, unlabelled.double() / 255
    gradients = []
    for together in (True, False):
        torch.manual_seed(1)
        net = DomainAdversarialNet(ARCHITECTURES["small"]).double()
        sum(losses(net, source, target, labelled.labels, 0.7, together)).backward()
        gradients.append([w.grad for w in net.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=EXACT)


# --------------------------------------------------------------------------- where the reversal's weight acts


def gradients_with(weight: float, domain_loss: float = 1.0) -> dict[str, Tensor]:
    torch.manual_seed(1)
    net = DomainAdversarialNet(ARCHITECTURES["small"]).double()
    labelled, unlabelled = data(8)
    source, target = labelled.images.double() / 255 - 0.5, unlabelled.double() / 255 - 0.5
    label_loss, of_domain = losses(net, source, target, labelled.labels, weight)
    (label_loss + domain_loss * of_domain).backward()
    return {name: w.grad for name, w in net.named_parameters()}


def test_the_weight_of_the_reversal_acts_on_the_features_alone():
    none, some, more = (gradients_with(weight) for weight in (0.0, 0.4, 0.8))
    for name in none:
        if name.startswith("features"):
            assert not torch.equal(none[name], some[name])
            torch.testing.assert_close(more[name] - none[name], 2 * (some[name] - none[name]))
        else:
            assert torch.equal(none[name], some[name]) and torch.equal(none[name], more[name])


def test_the_factor_on_the_domain_loss_reaches_its_classifier_and_the_features_but_not_the_labels():
    one, half = gradients_with(0.4), gradients_with(0.4, domain_loss=0.5)
    of_labels = gradients_with(0.0)
    for name in one:
        if name.startswith("domain_head"):
            torch.testing.assert_close(half[name], one[name] / 2)
        elif name.startswith("label_head"):
            assert torch.equal(half[name], one[name])
        else:
            torch.testing.assert_close(half[name] - of_labels[name], (one[name] - of_labels[name]) / 2)


def test_target_images_without_labels_change_the_features_by_their_domain_alone():
    with_target, without = end(SMALL).net, end(SMALL, unlabelled=None).net
    start = trained_by_hand(SMALL, 3, seed=0)[0]
    assert change(weights(with_target), weights(without), "features") > 1e-6
    for name, value in weights(without).items():
        if name.startswith("domain_head"):
            assert torch.equal(value.double(), start[name])


# --------------------------------------------------------------------------- other ways to the same result


def flat(weights_of: dict[str, Tensor], part: str) -> Tensor:
    return torch.cat([value.flatten() for name, value in weights_of.items() if name.startswith(part)])


@pytest.mark.parametrize("part", PARTS)
def test_bfloat16_moves_every_part_of_the_network_as_float32_does(part):
    start = flat(trained_by_hand(SMALL, 4, seed=0)[0], part)
    exact, rough = (flat(weights(end(SMALL, 4, precision=p).net), part) for p in ("fp32", "bf16"))
    assert exact.dtype == rough.dtype == torch.float32
    assert 0 < (rough - exact).norm() < 0.1 * (exact - start).norm()


def test_bfloat16_reports_the_losses_of_float32():
    exact, rough = (end(SMALL, 4, precision=p) for p in ("fp32", "bf16"))
    assert rough.label_loss == pytest.approx(exact.label_loss, rel=0.01)
    assert rough.domain_loss == pytest.approx(exact.domain_loss, rel=0.01)

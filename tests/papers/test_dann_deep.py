"""DANN's deep half: reversal layer, schedules, networks, the loop, and what it is compared with."""

import dataclasses
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from reprobook.papers.dann.alignment import aligned_subspaces, gap_covered, linear_svm
from reprobook.papers.dann.networks import ARCHITECTURES, DomainAdversarialNet
from reprobook.papers.dann.reversal import GradientReversal, domain_weight, learning_rate, reverse_gradient
from reprobook.papers.dann.training import (
    RECIPES,
    Labelled,
    Recipe,
    accuracy,
    losses,
    mean_images,
    predict,
    prepared,
    shuffled,
    train,
)

TINY = Recipe(architecture="small", size=16, half_batch=8)


def images(num: int, seed: int, size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, 3, size, size), generator=generator, dtype=torch.uint8)


def labelled(num: int = 40, seed: int = 0) -> Labelled:
    return Labelled(images(num, seed), torch.arange(num) % 10)


# --------------------------------------------------------------------------- reversal and schedules


@pytest.mark.parametrize("weight", [0.0, 0.31, 6.0])
def test_reversal_is_the_identity_forth_and_minus_lambda_back(weight):
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    coefficients = torch.randn(4, 3, dtype=torch.float64)
    y = reverse_gradient(x, weight)
    assert torch.equal(y, x)
    (y * coefficients).sum().backward()
    assert_close(x.grad, -weight * coefficients, rtol=0, atol=0)


def test_two_reversals_undo_each_other():
    x = torch.randn(5, requires_grad=True)
    (reverse_gradient(reverse_gradient(x, 0.5), 2.0) * torch.arange(5.0)).sum().backward()
    assert_close(x.grad, torch.arange(5.0))


def test_the_layer_follows_its_weight():
    layer = GradientReversal()
    for weight in (1.0, 0.25):
        layer.weight = weight
        x = torch.ones(2, requires_grad=True)
        layer(x).sum().backward()
        assert_close(x.grad, torch.full((2,), -weight))


def test_the_weight_rises_from_nothing_to_one_as_printed():
    printed = {p: 2 / (1 + math.exp(-10 * p)) - 1 for p in (0.0, 0.1, 0.5, 1.0)}
    assert printed[0.0] == 0.0
    assert {p: domain_weight(p) for p in printed} == pytest.approx(printed, abs=1e-15)


def test_the_rate_falls_as_printed():
    printed = {p: 0.01 / (1 + 10 * p) ** 0.75 for p in (0.0, 0.1, 0.5, 1.0)}
    assert {p: learning_rate(p) for p in printed} == pytest.approx(printed, rel=1e-14)
    assert learning_rate(0.0) == 0.01


# --------------------------------------------------------------------------- networks


@pytest.mark.parametrize(
    ("name", "width", "weights"),
    [
        # counted by hand from Fig. 4: convolutions, label classifier, domain classifier
        ("mnist", 768, 2432 + 38448 + (76900 + 10100 + 1010) + (76900 + 101)),
        ("svhn", 6272, 4864 + 102464 + 204928 + (19270656 + 6293504 + 20490) + (6423552 + 1049600 + 1025)),
        ("gtsrb", 2304, 7296 + 124560 + 921856 + (1180160 + 22059) + (2360320 + 1049600 + 1025)),
    ],
)
def test_the_networks_are_those_of_fig_4(name, width, weights):
    architecture = ARCHITECTURES[name]
    net = DomainAdversarialNet(architecture)
    assert sum(p.numel() for p in net.parameters()) == weights
    x = torch.randn(2, 3, architecture.size, architecture.size)
    of_labels, of_domains = net(x)
    assert of_labels.shape == (2, architecture.classes)
    assert of_domains.shape == (2,)
    assert net.embed(x).shape == (2, width)
    assert not any(isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d) for m in net.modules())


def test_an_image_too_small_is_refused():
    with pytest.raises(ValueError, match="too small for convolution 2"):
        DomainAdversarialNet(ARCHITECTURES["mnist"], 10)


def test_the_domain_classifier_says_different_things_of_different_images():
    net = DomainAdversarialNet(ARCHITECTURES["small"])
    assert net(torch.randn(50, 3, 16, 16))[1].std() > 1e-3


def test_the_penultimate_layer_is_what_the_last_one_reads():
    net = DomainAdversarialNet(ARCHITECTURES["mnist"])
    x = torch.randn(3, 3, 28, 28)
    assert_close(net.label_head[-1](net.embed(x, "penultimate")), net(x)[0])


# --------------------------------------------------------------------------- losses and loop


def test_a_domain_classifier_that_knows_nothing_costs_two_times_log_two():
    class Ignorant(nn.Module):
        def forward(self, x, weight):
            return torch.zeros(len(x), 10), torch.zeros(len(x))

    source, target = torch.zeros(4, 3, 16, 16), torch.zeros(8, 3, 16, 16)
    label_loss, domain_loss = losses(Ignorant(), source, target, torch.zeros(4, dtype=torch.long), 1.0)
    assert_close(label_loss.item(), math.log(10))
    assert_close(domain_loss.item(), 2 * math.log(2))


def test_both_domains_count_equally_in_the_domain_loss_however_many_they_are():
    class Sure(nn.Module):
        def forward(self, x, weight):
            return torch.zeros(len(x), 10), torch.full((len(x),), 3.0)

    source, target = torch.zeros(2, 3, 16, 16), torch.zeros(8, 3, 16, 16)
    _, loss = losses(Sure(), source, target, torch.zeros(2, dtype=torch.long), 1.0)
    assert_close(loss.item(), math.log1p(math.exp(3)) + math.log1p(math.exp(-3)))


def test_domains_pass_together_or_apart_and_only_batch_statistics_notice():
    torch.manual_seed(0)
    source, target, labels = torch.randn(6, 3, 16, 16), 3 * torch.randn(6, 3, 16, 16) + 1, torch.arange(6)
    for batch_norm in ("none", "together", "apart"):
        net = DomainAdversarialNet(ARCHITECTURES["small"], batch_norm=batch_norm)
        one, two = (torch.stack(losses(net, source, target, labels, 1.0, way)) for way in (True, False))
        assert torch.allclose(one, two, rtol=1e-5) == (batch_norm == "none")


def test_batches_of_one_domain_are_normalised_by_themselves_at_any_time():
    torch.manual_seed(0)
    x = torch.randn(20, 3, 16, 16)
    for batch_norm in ("together", "apart"):
        net = DomainAdversarialNet(ARCHITECTURES["small"], batch_norm=batch_norm).eval()
        brighter = torch.allclose(net(x)[0], net(3 * x)[0], atol=1e-3)
        assert brighter == (batch_norm == "apart")


def test_xavier_weights_have_their_variance_and_no_bias():
    xavier = dataclasses.replace(TINY, initialisation="xavier", first_rate=0.0)
    layer = last(labelled(), None, xavier, 1, 0).net.label_head[0]
    assert_close(layer.weight.var().item(), 2 / sum(layer.weight.shape), rtol=0.1, atol=0)
    assert_close(layer.bias, torch.zeros_like(layer.bias))


def test_each_pass_shows_each_example_once_and_in_another_order():
    batches = shuffled(10, 2, torch.Generator().manual_seed(0))
    first, second = (torch.cat([next(batches) for _ in range(5)]) for _ in range(2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()
    assert first.tolist() != list(range(10))


def test_preparing_takes_the_mean_of_both_domains_away():
    source, target = images(30, 1), images(50, 2) // 2
    both = mean_images(source, target, TINY)
    expected = (source.double().mean(0) + target.double().mean(0)) / 2 / 255
    assert_close(both.double(), expected.expand(2, -1, -1, -1), atol=1e-6, rtol=0)
    x = prepared(source, both[0], TINY)
    assert_close(x.double(), source.double() / 255 - expected, atol=1e-6, rtol=0)


def test_preparing_can_take_each_domains_own_mean_away():
    source, target = images(30, 1), images(50, 2) // 2
    own = dataclasses.replace(TINY, centring="own", brightness=255.0)
    centres = mean_images(source, target, own)
    for k, domain in enumerate((source, target)):
        assert_close(prepared(domain, centres[k], own).mean(0), torch.zeros(3, 16, 16), atol=1e-3, rtol=0)


def last(*args, **kwargs):
    return list(train(*args, **kwargs))[-1]


def weights(progress, part: str = ""):
    return torch.cat([p.detach().flatten() for n, p in progress.net.named_parameters() if n.startswith(part)])


def test_training_is_the_same_again_and_other_with_another_seed():
    data, target = labelled(), images(40, 5)
    one, again, other = (weights(last(data, target, TINY, 5, seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)


def test_without_target_images_the_domain_classifier_is_left_alone():
    fresh, trained = (last(labelled(), None, TINY, steps, 0) for steps in (1, 6))
    assert torch.equal(weights(fresh, "domain_head"), weights(trained, "domain_head"))
    assert not torch.allclose(weights(fresh, "features"), weights(trained, "features"))
    assert trained.domain_loss == 0


def test_with_no_weight_the_features_hear_nothing_of_the_domains_and_the_classifier_still_learns():
    deaf = dataclasses.replace(TINY, lambda_max=0.0, centring="own")
    one, other = (last(labelled(), target, deaf, 6, 0) for target in (images(40, 5), images(40, 5) // 4))
    assert torch.equal(weights(one, "features"), weights(other, "features"))
    assert torch.equal(weights(one, "label_head"), weights(other, "label_head"))
    assert not torch.equal(weights(one, "domain_head"), weights(other, "domain_head"))


def test_features_move_with_the_target_once_there_is_weight():
    own = dataclasses.replace(TINY, centring="own")
    one, other = (last(labelled(), t, own, 6, 0) for t in (images(40, 5), images(40, 5) // 4))
    assert not torch.allclose(weights(one, "features"), weights(other, "features"))


def test_reports_come_every_so_many_steps_and_at_the_end():
    assert [p.step for p in train(labelled(), None, TINY, 7, 0, every=3)] == [3, 6, 7]


@pytest.mark.parametrize(("recipe", "rate"), [("printed", 0.1), ("modern", 1e-3)])
def test_a_network_learns_what_can_be_learnt(recipe, rate):
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 256, (10, 3, 16, 16), generator=generator).float()
    labels = torch.arange(400) % 10
    noisy = patterns[labels] * 0.8 + torch.randint(0, 52, (400, 3, 16, 16), generator=generator)
    data = Labelled(noisy.to(torch.uint8), labels)
    how = dataclasses.replace(RECIPES[recipe], architecture="small", size=16, first_rate=rate)
    assert accuracy(last(data, None, how, 150, 0), data, how) > 0.95


def departure(options: dict) -> float:
    """Return how far a fast path leads from the slow one after four steps, as a share of the way gone."""
    data, target = labelled(), images(40, 5)
    slow, fast = (weights(last(data, target, TINY, 4, 0, **o)) for o in ({}, options))
    start = weights(last(data, target, dataclasses.replace(TINY, first_rate=0.0), 1, 0))
    return ((fast - slow).norm() / (slow - start).norm()).item()


def test_bfloat16_trains_the_same_network():
    assert 0 < departure({"precision": "bf16"}) < 0.1


@pytest.mark.slow
def test_the_compiled_network_trains_the_same_network():
    if not shutil.which("c++"):
        pytest.skip("torch.compile needs a C++ compiler on the CPU")
    # in a process of its own, because the checks of shapes that these tests switch on cannot be compiled
    code = "import test_dann_deep as t; print(t.departure({'compiled': True}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 1e-4


def test_predictions_do_not_depend_on_the_batch_or_change_the_network():
    kept = dataclasses.replace(TINY, batch_norm="together")
    progress = last(labelled(), images(40, 5), kept, 3, 0)
    data = images(600, 9)
    before = {k: v.clone() for k, v in progress.net.state_dict().items()}
    whole = predict(progress, data, kept, 1)
    assert_close(whole[:7], predict(progress, data[:7], kept, 1), atol=1e-5, rtol=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in progress.net.state_dict().items())
    assert progress.net.training


def test_each_domain_is_predicted_with_its_own_mean_taken_away():
    own = dataclasses.replace(TINY, centring="own")
    source, target = labelled(), images(40, 5) // 4
    progress = last(source, target, own, 1, 0)
    for domain, x in enumerate((source.images, target)):
        centred = x.float() / 255 - (x.float() / 255).mean(0)
        assert_close(predict(progress, x, own, domain), progress.net(centred)[0], atol=1e-5, rtol=1e-4)


# --------------------------------------------------------------------------- comparisons


def test_aligning_a_domain_with_itself_gives_its_principal_components():
    x = torch.randn(200, 6, dtype=torch.float64) * torch.tensor([5.0, 4, 3, 2, 1, 0.5], dtype=torch.float64)
    source, target = aligned_subspaces(x, x, 3)
    assert_close(source, target)
    _, s, _ = np.linalg.svd((x - x.mean(0)).numpy(), full_matrices=False)
    assert_close((source**2).sum(0), torch.from_numpy(s[:3] ** 2))


def test_alignment_turns_the_source_as_far_as_the_target_was_turned():
    generator = torch.Generator().manual_seed(0)
    x = (
        torch.randn(4000, 3, dtype=torch.float64, generator=generator)
        * torch.tensor([6.0, 3.0, 0.1]).double()
    )
    angle = torch.tensor(0.6).double()
    turn = torch.eye(3).double()
    turn[:2, :2] = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    source, target = aligned_subspaces(x, x @ turn.T, 2)
    # both planes are the same one, so there is nothing to align
    assert_close((source**2).sum(), ((x - x.mean(0))[:, :2] ** 2).sum(), rtol=1e-3, atol=0)
    assert_close(source, (x - x.mean(0)) @ turn @ turn.T @ _directions(x @ turn.T), rtol=0, atol=0.2)
    assert target.shape == (4000, 2)


def _directions(x):
    _, _, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    found = v[:2].T
    reference = aligned_subspaces(x, x, 2)[1]
    signs = torch.sign(((x - x.mean(0)) @ found * reference).sum(0))
    return found * signs


@pytest.mark.parametrize("dimension", [0, 7])
def test_an_impossible_dimension_is_refused(dimension):
    with pytest.raises(ValueError, match=r"outside 1 \.\. 6"):
        aligned_subspaces(torch.randn(20, 6), torch.randn(30, 6), dimension)


def test_a_linear_svm_separates_what_lines_separate():
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    labels = (x[:, 0] * 3 - x[:, 1] > 0.2).long()
    assert linear_svm(x[:200], labels[:200], 10.0).accuracy(x[200:], labels[200:]) > 0.97


def test_the_gap_is_covered_from_nought_to_one():
    assert gap_covered(0.5, 0.5, 0.9) == 0.0
    assert gap_covered(0.9, 0.5, 0.9) == 1.0
    assert gap_covered(0.4, 0.5, 0.9) == pytest.approx(-0.25)
    with pytest.raises(ValueError, match="no gap"):
        gap_covered(0.5, 0.7, 0.7)

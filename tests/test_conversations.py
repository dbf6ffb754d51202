"""What the page on conversations between the papers states is so, by the library's own functions."""

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from reprobook import stats
from reprobook.diffusion.distillation import vsd_loss
from reprobook.diffusion.guidance import classifier_free, classifier_guided
from reprobook.diffusion.likelihood import probe_variance, probed_divergence
from reprobook.diffusion.mixtures import Mixture, leaves, ring
from reprobook.diffusion.predictions import diffuse
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.papers.dann.distance import proxy_a_distance
from reprobook.papers.dann.reversal import reverse_gradient
from reprobook.papers.dann.shallow import Shallow, domain_logits
from reprobook.papers.diffusion_principles.densities import asymmetry
from reprobook.papers.diffusion_principles.guided_gaussians import guided_by_ode, guided_by_sde, tilted
from reprobook.papers.equilibrium_propagation.errors import flatten, jacobian, linear_error
from reprobook.papers.equilibrium_propagation.homeostasis import penalty
from reprobook.papers.equilibrium_propagation.layered import Layered, initial_weights, layered
from reprobook.papers.equilibrium_propagation.relaxation import relax
from reprobook.papers.f_distill.divergences import DIVERGENCES
from reprobook.papers.f_distill.losses import (
    adversarial_loss,
    discriminator_loss,
    scale_of_level,
    student_loss,
)
from reprobook.papers.transformers_as_svm.descent import attention
from reprobook.papers.transformers_as_svm.problems import Problem
from reprobook.papers.transformers_as_svm.svm import att_svm

PAGE = (Path(__file__).resolve().parents[1] / "book" / "conversations.md").read_text(encoding="utf-8")
SCHEDULE = SCHEDULES["trig"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in double precision."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slope(value: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), x, retain_graph=True)[0]


# --------------------------------------------------------------------------- the page


def test_every_thread_has_a_section_and_a_row():
    sections = re.findall(r"^## (\d)\. ", PAGE, re.MULTILINE)
    rows = re.findall(r"^\| (\d)\. ", PAGE, re.MULTILINE)
    assert sections == rows == [str(k) for k in range(1, len(rows) + 1)]
    assert len(rows) >= 6


def test_the_picture_has_a_name_and_every_line_a_thread():
    picture = re.search(r"<svg.*?</svg>", PAGE, re.DOTALL)[0]
    assert 'role="img"' in picture
    assert len(re.search(r'aria-label="([^"]+)"', picture)[1]) >= 40
    assert picture.count('class="rb-talk-paper"') == 5
    threads = set(re.findall(r"<tspan[^>]*>(\d)</tspan>", picture))
    drawn_apart = {"8"}  # the last one joins all five
    assert threads | drawn_apart == set(re.findall(r"^\| (\d)\. ", PAGE, re.MULTILINE))


# --------------------------------------------------------------------------- 1. logits


def test_the_best_domain_regressor_says_the_log_ratio_of_two_gaussians():
    """The weights are C⁻¹(m_T - m_S), and at these the discriminator's loss of f-distill stands still."""
    means, std = drawn(2, 3), 0.7
    source, target = (Mixture.isotropic(m[None], std) for m in means)
    u = (means[1] - means[0]) / std**2
    d = (means[0].square().sum() - means[1].square().sum()) / (2 * std**2)
    best = Shallow(*[torch.empty(0)] * 4, u[None], d[None])
    h = drawn(1, 50, 3, seed=1)
    assert torch.allclose(domain_logits(best, h), target.log_density(h) - source.log_density(h), atol=1e-10)


def test_the_log_ratio_is_where_the_discriminators_loss_is_least():
    gap = 1.5
    z = torch.from_numpy(norm.ppf((np.arange(20_000) + 0.5) / 20_000))  # stands for a Gaussian without chance
    best = torch.tensor([gap, -(gap**2) / 2], dtype=torch.float64)

    def loss(weights: Tensor) -> Tensor:
        return discriminator_loss(weights[0] * z + weights[1], weights[0] * (z + gap) + weights[1])

    at = best.clone().requires_grad_()
    assert slope(loss(at), at).abs().max() < 1e-4
    turns = torch.eye(2, dtype=torch.float64)
    assert all(loss(best + sign * 0.2 * turn) > loss(best) + 1e-3 for sign in (-1, 1) for turn in turns)


def test_the_logits_slope_is_the_difference_of_the_scores():
    data, student, t = leaves(), ring(5, 1.0, 0.4), torch.tensor(0.6, dtype=torch.float64)
    x = drawn(40, 2).requires_grad_()
    logit = data.log_density(x, t, SCHEDULE) - student.log_density(x, t, SCHEDULE)
    scores = data.score(x, t, SCHEDULE) - student.score(x, t, SCHEDULE)
    assert torch.allclose(slope(logit, x), scores, atol=1e-9)


def test_a_classifier_that_guides_is_a_log_ratio_of_the_class_to_the_crowd():
    crowd, t = leaves(), torch.tensor(0.5, dtype=torch.float64)
    one = Mixture(torch.ones(1, dtype=torch.float64), crowd.means[1:2], crowd.covariances[1:2])
    x = drawn(30, 2)

    def log_ratio(x: Tensor, t: Tensor) -> Tensor:
        return one.log_density(x, t, SCHEDULE) - crowd.log_density(x, t, SCHEDULE)

    by_logit = classifier_guided(crowd.model(SCHEDULE), log_ratio, 3.0)(x, t, "score")
    by_models = classifier_free(one.model(SCHEDULE), crowd.model(SCHEDULE), 3.0)(x, t, "score")
    assert torch.allclose(by_logit, by_models, atol=1e-8)
    posterior = (crowd.responsibilities(x, t, SCHEDULE)[:, 1] / crowd.weights[1]).log()
    assert torch.allclose(log_ratio(x, t), posterior, atol=1e-9)


# --------------------------------------------------------------------------- 2. pull and measure

STEPS = {
    "jensen_shannon": lambda logit: discriminator_loss(reverse_gradient(logit), torch.zeros_like(logit)),
    "softened_reverse_kl": adversarial_loss,
    "reverse_kl": lambda logit: -logit.mean(),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_against_a_perfect_discriminator_is_a_step_of_f_distill(name):
    """Reversal takes Jensen-Shannon's weight, the non-saturating loss that of softened reverse KL."""
    teacher, student = leaves(), ring(5, 1.0, 0.4)
    t = torch.full((30,), 0.6, dtype=torch.float64)
    x, noise = drawn(30, 2).requires_grad_(), drawn(30, 2, seed=1)
    noised = diffuse(x, noise, t, SCHEDULE)
    logit = teacher.log_density(noised, t, SCHEDULE) - student.log_density(noised, t, SCHEDULE)
    by_game = slope(STEPS[name](logit), x)

    weight = DIVERGENCES[name].weight(logit.detach().exp())
    models = student.model(SCHEDULE), teacher.model(SCHEDULE)
    by_theorem = slope(student_loss(x, noise, t, *models, weight, by_sample=False), x)
    level = SCHEDULE.sigma(t[0]) ** 2 / (SCHEDULE.alpha(t[0]) ** 2 * scale_of_level(SCHEDULE, t[0]))
    assert torch.allclose(by_theorem * 2, level * by_game, rtol=1e-9, atol=1e-12)  # a mean over 2 coordinates
    assert torch.allclose(slope(vsd_loss(x, noise, t, *models, weight).mean(), x), by_game, atol=1e-9)


def test_the_two_games_weights_add_up_to_one():
    r = torch.logspace(-6, 6, 50, dtype=torch.float64)
    parts = [DIVERGENCES[name].weight(r) for name in ("jensen_shannon", "softened_reverse_kl")]
    assert torch.allclose(sum(parts), torch.ones_like(r), atol=1e-12)


def total_variation(r: Tensor) -> Tensor:
    """The generator of ½ ∫ |p - q|."""
    return (r - 1).abs() / 2


def on_a_line(gap: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points, their spacing, and the densities of two unit Gaussians there."""
    x = torch.linspace(-12, 12 + gap, 40_001, dtype=torch.float64)
    p, q = (torch.exp(-((x - m) ** 2) / 2) / math.sqrt(2 * math.pi) for m in (0.0, gap))
    return x, x[1] - x[0], p, q


@pytest.mark.parametrize("gap", [0.5, 1.0, 3.0])
def test_the_least_domain_loss_is_two_log_two_minus_jensen_shannon(gap):
    _, dx, p, q = on_a_line(gap)
    logit = p.log() - q.log()
    softplus = torch.nn.functional.softplus
    least = (q * softplus(logit) + p * softplus(-logit)).sum() * dx
    assert least.item() == pytest.approx(
        2 * math.log(2) - (q * DIVERGENCES["jensen_shannon"].f(p / q)).sum().item() * dx.item(), abs=1e-9
    )


@pytest.mark.parametrize("gap", [0.5, 1.0, 3.0])
def test_the_proxy_distance_of_the_best_rule_is_twice_the_total_variation(gap):
    _, dx, p, q = on_a_line(gap)
    twice = 2 * (q * total_variation(p / q)).sum() * dx
    assert twice.item() == pytest.approx(2 * (1 - 2 * norm.cdf(-gap / 2)), abs=1e-6)
    samples = drawn(4000, 1), drawn(4000, 1, seed=1) + gap
    assert proxy_a_distance(*samples, seed=0, costs=[1.0]) == pytest.approx(twice.item(), abs=0.1)


def test_total_variation_has_no_weight_where_densities_differ():
    """Its f is straight on either side of one, so f″ is zero there, and all the others' are not."""
    r = torch.tensor([0.1, 0.5, 0.9, 1.1, 2.0, 10.0], dtype=torch.float64)

    def bend(f) -> Tensor:
        return (f(r + 0.05) - 2 * f(r) + f(r - 0.05)) / 0.05**2

    assert bend(total_variation).abs().max() < 1e-9
    assert all((bend(row.f) > 1e-4).all() for row in DIVERGENCES.values())


# --------------------------------------------------------------------------- 3. gradients by decree


def test_a_reversal_is_made_of_one_stop_gradient():
    x, weight = drawn(7).requires_grad_(), 2.5
    other = -weight * x + ((1 + weight) * x).detach()
    assert torch.allclose(other, reverse_gradient(x, weight))
    assert torch.allclose(slope(other.sin(), x), slope(reverse_gradient(x, weight).sin(), x))


def test_any_field_is_the_gradient_of_a_loss_with_a_fixed_target():
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)  # a field that no function has
    x = drawn(9, 2).requires_grad_()
    field = x @ turn.mT
    by_target = slope((x - (x - field).detach()).square() / 2, x)
    by_product = slope(x * field.detach(), x)
    assert torch.allclose(by_target, field) and torch.equal(by_product, field)


# --------------------------------------------------------------------------- 4. the antisymmetric part


def contest(label: float, weight: float) -> Tensor:
    """The Jacobian of the steps of DANN's smallest contest: label/2 w² + u R(w)."""
    rows = []
    for start in torch.eye(2, dtype=torch.float64):
        net = start.clone().requires_grad_()
        w, u = net
        rows.append(slope(label / 2 * w**2 + u * reverse_gradient(w, weight), net))
    return torch.stack(rows, 1)


def test_a_reversed_contest_is_antisymmetric_but_for_the_labels():
    J = contest(0.3, 1.0)
    assert torch.equal((J + J.mT) / 2, torch.diag(torch.tensor([0.3, 0.0], dtype=torch.float64)))
    assert asymmetry(contest(0.0, 1.0)) == pytest.approx(1)
    assert asymmetry(contest(0.3, -1.0)) == 0  # without the reversal both go down one loss


def test_explicit_steps_drift_off_an_antisymmetric_field_and_midpoint_steps_do_not():
    A, rate, eye = contest(0.0, 1.0), 0.1, torch.eye(2, dtype=torch.float64)
    x = drawn(2)
    explicit = (eye - rate * A) @ x
    assert (explicit.norm() / x.norm()).item() == pytest.approx(math.sqrt(1 + rate**2), rel=1e-12)
    midpoint = torch.linalg.solve(eye + rate / 2 * A, (eye - rate / 2 * A) @ x)
    assert (midpoint.norm() / x.norm()).item() == pytest.approx(1, rel=1e-12)


@pytest.fixture(scope="module")
def settled():
    """A symmetric and an asymmetric network at rest, with one input and its target."""
    wiring = layered([6, 5, 4, 3], 3)
    net = Layered(wiring, initial_weights(wiring, [0.0, 60.0], [0, 0], gain=0.5))
    x = drawn(1, 1, 6).abs().expand(2, -1, -1)
    target = torch.eye(3, dtype=torch.float64)[None, :1].expand(2, -1, -1)
    return net, relax(net, x, steps=300), target


def test_a_nudge_measures_the_gradient_where_the_jacobian_is_symmetric(settled):
    net, rest, target = settled
    J = jacobian(net, rest)[:, 0]
    A = (J - J.mT) / 2
    moved, delta = (
        flatten(linear_error(net, rest, target, steps=300, transposed=way))[:, 0] for way in (False, True)
    )
    assert asymmetry(J)[0] < 1e-12 and torch.allclose(moved[0], delta[0], atol=1e-12)
    S = (J + J.mT) / 2
    turned = torch.linalg.solve(S + A, ((S - A) @ delta[..., None]))[..., 0]  # (1+K)⁻¹(1-K)δ, K = S⁻¹A
    assert torch.allclose(moved, turned, atol=1e-10)
    assert (moved[1] - delta[1]).norm() > 0.1 * delta[1].norm()
    assert torch.allclose(penalty(net), 2 * A.square().sum((1, 2)))


def test_one_probe_is_blind_to_the_antisymmetric_part_and_two_products_see_it(settled):
    J = jacobian(settled[0], settled[1])[1, 0]
    S, A = (J + J.mT) / 2, (J - J.mT) / 2
    x, probes, t = drawn(20, len(J)), drawn(20, len(J), seed=1), torch.zeros(())
    sums = [probed_divergence(lambda x, t, M=M: x @ M.mT, x, t, probes)[1] for M in (J, S)]
    assert torch.allclose(*sums, atol=1e-10)
    twice = J.mT @ J - J @ J
    assert twice.trace().item() == pytest.approx(2 * A.square().sum().item())
    noise = 2 * (S @ A - A @ S - 2 * A @ A).square().sum()
    assert probe_variance(twice, "normal").item() == pytest.approx(noise.item())


# --------------------------------------------------------------------------- 5. denoising is attention


def memory(num: int = 7, dim: int = 4) -> tuple[Mixture, Tensor]:
    """Data of a few points on a sphere, each as likely: a mixture without width."""
    points = torch.nn.functional.normalize(drawn(num, dim), dim=-1)
    shares = torch.full((num,), 1 / num, dtype=torch.float64)
    return Mixture(shares, points, torch.zeros(num, dim, dim, dtype=torch.float64)), points


def attending(points: Tensor, x: Tensor, gain: Tensor) -> Tensor:
    """Attention over the points for every query x, by the layer of the paper with W = gain · 1."""
    num, dim = points.shape
    tokens = points.expand(1, len(x), num, dim)
    ones = torch.ones(1, len(x), dtype=torch.float64)
    problem = Problem(tokens, x[None], ones, torch.zeros(1, 1, dim, dtype=torch.float64))
    return attention(problem, gain * torch.eye(dim, dtype=torch.float64)[None])[0]


@pytest.mark.parametrize("time", [0.3, 0.8, 1.3])
def test_the_perfect_denoiser_of_points_on_a_sphere_is_an_attention_layer(time):
    data, points = memory()
    t, x = torch.tensor(time, dtype=torch.float64), drawn(10, 4, seed=1)
    gain = SCHEDULE.alpha(t) / SCHEDULE.sigma(t) ** 2
    s = attending(points, x, gain)
    assert torch.allclose(data.denoise(x, t, SCHEDULE), s @ points, atol=1e-10)
    spread = torch.diag_embed(s) - s[:, :, None] * s[:, None]  # the matrix of the gradient of attention
    x = x.requires_grad_()
    rows = [slope(part, x) for part in data.denoise(x, t, SCHEDULE).unbind(1)]
    assert torch.allclose(torch.stack(rows, 1), gain * points.mT @ spread @ points, atol=1e-9)


def test_points_of_different_lengths_add_a_term_to_the_softmax():
    lengths = torch.linspace(0.5, 2, 7, dtype=torch.float64)[:, None]
    data, points = memory()
    data, points = Mixture(data.weights, lengths * points, data.covariances), lengths * points
    t, x = torch.tensor(0.8, dtype=torch.float64), drawn(10, 4, seed=1)
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    logits = alpha / sigma**2 * x @ points.mT - alpha**2 / (2 * sigma**2) * points.square().sum(1)
    assert torch.allclose(data.denoise(x, t, SCHEDULE), logits.softmax(1) @ points, atol=1e-10)
    assert not torch.allclose(attending(points, x, alpha / sigma**2), logits.softmax(1), atol=1e-2)


def test_less_noise_is_longer_weights_and_the_nearest_point_takes_all():
    data, points = memory()
    x, times = drawn(20, 4, seed=1), torch.tensor([1.2, 0.6, 0.2, 0.01], dtype=torch.float64)
    gains = SCHEDULE.alpha(times) / SCHEDULE.sigma(times) ** 2
    assert all(a < b for a, b in pairwise(gains.tolist()))
    sure = torch.stack([attending(points, x, gain).amax(-1) for gain in gains])
    assert (sure.diff(dim=0) >= 0).all() and (sure[-1] > 0.99).all() and (sure[0] < 0.9).any()
    nearest = points[torch.cdist(x, points).argmin(-1)]
    assert torch.allclose(data.denoise(x, times[-1], SCHEDULE), nearest, atol=1e-2)


# --------------------------------------------------------------------------- 6. direction and length


def classified(num: int = 8) -> tuple[Tensor, Tensor]:
    """Two clouds in the plane that a line separates, with a coordinate of ones for the bias."""
    y = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(num // 2)
    h = 0.5 * drawn(num, 2, seed=3) + torch.outer(y, torch.tensor([1.5, 0.5], dtype=torch.float64))
    return torch.cat([h, torch.ones(num, 1, dtype=torch.float64)], 1), y


def test_a_softmax_over_two_tokens_is_a_sigmoid():
    x, W, z = drawn(1, 5, 2, 3), drawn(1, 3, 3, seed=1), drawn(1, 5, 3, seed=2)
    problem = Problem(x, z, torch.ones(1, 5, dtype=torch.float64), drawn(1, 1, 3))
    u, d = W[0] @ z[0, 0], torch.zeros(1, dtype=torch.float64)
    regressor = Shallow(*[torch.empty(0)] * 4, u[None], d)
    logit = domain_logits(regressor, (x[:, :1, 0] - x[:, :1, 1]))
    assert torch.allclose(attention(problem, W)[:, :1, 0], logit.sigmoid())


def test_a_domain_classifier_of_separable_features_turns_to_the_solution_of_att_svm():
    """Its margin problem is Att-SVM of a token and nothing, for one query; only its direction settles."""
    h, y = classified()
    tokens = torch.stack([y[:, None] * h, torch.zeros_like(h)], 1)[None]
    query = torch.eye(3, dtype=torch.float64)[0].expand(1, len(y), 3)
    problem = Problem(tokens, query, torch.ones(1, len(y), dtype=torch.float64), torch.zeros(1, 1, 3))
    margin = att_svm(problem, torch.zeros(1, len(y), dtype=torch.long)).W[0][:, 0]

    weights = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    seen = []
    for k in range(250):
        net = Shallow(*[torch.empty(0)] * 4, weights[None, :2], weights[None, 2])
        logit = domain_logits(net, h[None, :, :2])[0]
        loss = discriminator_loss(logit[y < 0], logit[y > 0])
        step = slope(loss, weights)
        if k in (50, 249):
            seen.append(
                (loss.item(), weights.norm().item(), torch.cosine_similarity(weights, margin, 0).item())
            )
        with torch.no_grad():
            weights -= 0.1 * step / step.norm()
    (early_loss, early_length, early), (loss, length, late) = seen
    assert loss < 1e-3 * early_loss and length > 4 * early_length
    assert late > 0.999 and 1 - late < (1 - early) / 5


# --------------------------------------------------------------------------- 7. a nudge is a tilt


def rest(field, x: Tensor, J: Tensor) -> Tensor:
    """A zero of a field near x, by Newton's method with a Jacobian from nearby."""
    for _ in range(12):
        x = x - torch.linalg.solve(J, field(x))
    return x


def test_guidance_moves_a_mode_as_a_nudge_moves_a_resting_state():
    """The mean of two opposite nudges, over their size, is -J⁻¹ g; and J is symmetric, being a Hessian."""
    crowd, t = leaves(), torch.tensor(0.5, dtype=torch.float64)

    def log_classifier(x: Tensor, t: Tensor) -> Tensor:
        return crowd.responsibilities(x, t, SCHEDULE)[:, 1].log()

    def field(weight: float):
        model = classifier_guided(crowd.model(SCHEDULE), log_classifier, weight)
        return lambda x: model(x[None], t, "score")[0]

    free = crowd.means[2] * SCHEDULE.alpha(t)
    for _ in range(3):
        J = torch.autograd.functional.jacobian(lambda x: crowd.score(x, t, SCHEDULE), free)
        free = rest(field(0.0), free, J)
    assert asymmetry(J) < 1e-10 and (torch.linalg.eigvalsh(J) < 0).all()
    at = free.clone().requires_grad_()
    response = -torch.linalg.solve(J, slope(log_classifier(at[None], t), at))

    size = 1e-3
    up, down = (rest(field(sign * size), free, J) for sign in (1, -1))
    two_sided = ((up - down) / (2 * size) - response).norm()
    assert two_sided < 1e-4 * response.norm()
    assert ((up - free) / size - response).norm() > 10 * two_sided


def test_to_first_order_the_tilted_law_responds_like_a_nudge_and_a_sampler_does_not():
    m, s, S = (torch.tensor(v, dtype=torch.float64) for v in (1.0, 0.5, 1.5))
    small, rho = torch.tensor(1e-5, dtype=torch.float64), (s / S) ** 2
    nudge = S**2 * m / s**2  # -J⁻¹ g at the mean of N(0, S²), where J = -1/S² and g = m/s²
    root = (1 - rho).sqrt()
    expected = {
        tilted: nudge,
        guided_by_ode: m * torch.atanh(root) / root,
        guided_by_sde: -m * rho.log() / (1 - rho),
    }
    for law, response in expected.items():
        found = law(m, s, S, small).mean / small
        assert found.item() == pytest.approx(response.item(), rel=1e-3)
    assert expected[guided_by_ode] < 0.5 * nudge and expected[guided_by_sde] < 0.5 * nudge


# --------------------------------------------------------------------------- 8. over seeds


def trials_needed(share: float) -> int:
    """How many trials without an exception put the whole interval above a share."""
    return next(n for n in range(1, 10_000) if stats.fraction([True] * n).low >= share)


def test_a_fraction_without_exceptions_reaches_a_share_only_over_many_seeds():
    z = norm.ppf(0.975)
    assert stats.fraction([True] * 20).low == pytest.approx(20 / (20 + z**2))
    assert trials_needed(0.9) == math.ceil(9 * z**2)
    assert f"takes {trials_needed(0.9)} trials" in PAGE and f"takes {trials_needed(0.99)}" in PAGE

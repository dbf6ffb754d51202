"""Diffusion over finitely many states: Bayes' rule by loops, conservation, and the way back."""

import math

import pytest
import torch

from reprobook.papers.diffusion_principles.discrete import (
    RATES,
    kernels,
    law_at,
    marginals,
    master_equation,
    mixed_by_posterior,
    posterior_kernels,
    reverse_kernels,
    reverse_rates,
    solve_backwards,
)

EXACT = {"rtol": 0, "atol": 1e-13}
kinds = pytest.mark.parametrize("kind", RATES)
START = torch.tensor([0.5, 0.2, 0.05, 0.25, 0.0], dtype=torch.float64)
TIMES = torch.tensor([0.0, 0.1, 0.3, 0.7, 2.0], dtype=torch.float64)


def positive(num: int = 5, seed: int = 0) -> torch.Tensor:
    law = torch.rand(num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    return law / law.sum()


@kinds
def test_rates_leave_no_mass_and_create_none(kind):
    rates = RATES[kind](5)
    torch.testing.assert_close(rates.sum(1), torch.zeros(5).double(), **EXACT)
    assert (rates - torch.diag(torch.diagonal(rates)) >= 0).all()
    forward = kernels(rates, TIMES)
    torch.testing.assert_close(forward.sum(2), torch.ones(4, 5).double(), **EXACT)
    assert (forward >= 0).all()


def test_the_kernels_are_the_known_ones():
    stay = math.exp(-0.3)
    (uniform,), (masking,) = (kernels(RATES[k](3), torch.tensor([0.0, 0.3])) for k in ("uniform", "masking"))
    torch.testing.assert_close(
        uniform[0], torch.tensor([stay + (1 - stay) / 3, *[(1 - stay) / 3] * 2]).double()
    )
    expected = torch.tensor([[stay, 0, 1 - stay], [0, stay, 1 - stay], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(masking, expected, rtol=0, atol=1e-7)  # the times are single precision


def test_noise_between_neighbours_spreads_like_a_diffusion():
    rates, start = RATES["neighbours"](101), torch.zeros(101, dtype=torch.float64)
    start[50] = 1
    law, place = law_at(start, rates, 20.0), torch.arange(101, dtype=torch.float64) - 50
    assert (law * place).sum().item() == pytest.approx(0, abs=1e-10)
    assert (law * place**2).sum().item() == pytest.approx(2 * 20.0, rel=1e-6)  # both ways at rate 1


@kinds
def test_every_row_of_a_reverse_kernel_has_unit_mass_also_for_impossible_states(kind):
    reverse = reverse_kernels(START, kernels(RATES[kind](5), TIMES))
    torch.testing.assert_close(reverse.sum(2), torch.ones(4, 5).double(), **EXACT)
    assert (reverse >= 0).all()


@kinds
def test_reverse_kernels_carry_each_marginal_back_to_the_one_before(kind):
    forward = kernels(RATES[kind](5), TIMES)
    laws = marginals(START, forward)
    back = torch.einsum("kx,kxy->ky", laws[1:], reverse_kernels(START, forward))
    torch.testing.assert_close(back, laws[:-1], **EXACT)
    assert (laws[1:] - laws[:-1]).abs().sum(1).min() > 0.01  # there was a way to go


@kinds
def test_a_reverse_kernel_is_bayes_rule_entry_by_entry(kind):
    forward = kernels(RATES[kind](5), TIMES)
    laws, reverse = marginals(START, forward), reverse_kernels(START, forward)
    for k, y, x in ((0, 1, 0), (2, 4, 3), (3, 0, 1)):
        both = laws[k][x] * forward[k][x, y]
        expected = (both / sum(laws[k][z] * forward[k][z, y] for z in range(5))).item()
        assert reverse[k][y, x].item() == pytest.approx(expected, rel=1e-12)


@kinds
def test_kernels_that_know_the_clean_state_mix_to_the_one_that_does_not(kind):
    forward = kernels(RATES[kind](5), TIMES)
    start = positive()
    torch.testing.assert_close(mixed_by_posterior(start, forward), reverse_kernels(start, forward), **EXACT)


def test_the_first_posterior_kernel_returns_the_clean_state():
    posterior = posterior_kernels(kernels(RATES["uniform"](4), TIMES))[0]
    for clean in range(4):
        torch.testing.assert_close(posterior[clean, :, clean], torch.ones(4).double(), **EXACT)


def test_a_mask_is_lifted_at_the_share_of_noise_that_a_step_has():
    """From the mask, x_{k-1} is still masked with probability (1 - e^-s) / (1 - e^-t)."""
    posterior = posterior_kernels(kernels(RATES["masking"](4), TIMES))
    s, t = TIMES[1].item(), TIMES[2].item()
    assert posterior[1, 0, 3, 3].item() == pytest.approx(math.expm1(-s) / math.expm1(-t), rel=1e-12)
    assert posterior[1, 0, 3, 0].item() == pytest.approx(1 - math.expm1(-s) / math.expm1(-t), rel=1e-12)


# --------------------------------------------------------------------------- continuous time


@kinds
def test_the_master_equation_conserves_mass(kind):
    assert master_equation(positive(), RATES[kind](5)).sum().abs() < 1e-15
    assert law_at(positive(), RATES[kind](5), 3.0).sum().item() == pytest.approx(1, abs=1e-13)


@kinds
def test_the_exponential_solves_the_master_equation(kind):
    start, rates, h = positive(), RATES[kind](5), 1e-5
    slope = (law_at(start, rates, 0.4 + h) - law_at(start, rates, 0.4 - h)) / (2 * h)
    torch.testing.assert_close(slope, master_equation(law_at(start, rates, 0.4), rates), rtol=0, atol=1e-9)


@kinds
def test_reverse_rates_undo_the_master_equation(kind):
    law, rates = law_at(positive(), RATES[kind](5), 0.3), RATES[kind](5)
    turned = reverse_rates(law, rates)
    torch.testing.assert_close(master_equation(law, turned), -master_equation(law, rates), **EXACT)
    assert (turned - torch.diag(torch.diagonal(turned)) >= 0).all()


@kinds
def test_reverse_rates_are_the_limit_of_reverse_kernels(kind):
    start, rates, h = positive(), RATES[kind](5), 1e-6
    law = law_at(start, rates, 0.5)
    kernel = reverse_kernels(law, kernels(rates, torch.tensor([0.0, h], dtype=torch.float64)))[0]
    eye = torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close((kernel - eye) / h, reverse_rates(law, rates), rtol=1e-4, atol=1e-4)


@kinds
def test_the_way_back_passes_the_laws_of_the_way_out(kind):
    times = torch.linspace(2.0, 0.05, 81, dtype=torch.float64)
    laws = solve_backwards(positive(), RATES[kind](5), times)
    expected = torch.stack([law_at(positive(), RATES[kind](5), t) for t in times.tolist()])
    torch.testing.assert_close(laws, expected, rtol=0, atol=1e-6)


def test_the_way_back_is_found_at_fourth_order():
    start, rates, errors = positive(), RATES["neighbours"](5), []
    for num in (20, 40):
        times = torch.linspace(2.0, 0.2, num + 1, dtype=torch.float64)
        last = solve_backwards(start, rates, times)[-1]
        errors.append((last - law_at(start, rates, 0.2)).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.6)

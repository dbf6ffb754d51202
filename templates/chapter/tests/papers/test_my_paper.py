"""What is known about the formulas of the paper."""

import torch
from torch.testing import assert_close

from reprobook.papers.my_paper import errors_of_mean, slope


def test_the_errors_are_those_of_the_plain_mean():
    draws = torch.rand(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for row, errors in zip(draws, errors_of_mean(draws, [1, 7, 20]), strict=True):
        assert_close(errors, torch.stack([(row[:k].mean() - 0.5).abs() for k in (1, 7, 20)]))


def test_a_power_law_has_its_exponent_as_slope():
    k = torch.tensor([10.0, 100.0, 1000.0], dtype=torch.float64)
    assert_close(slope([10, 100, 1000], torch.stack([3 * k**-0.5, k**2])), torch.tensor([-0.5, 2.0]).double())

"""An Example to Be Replaced (A. Author, B. Author; arXiv 2401.00000v1).

The paper asks how fast the mean of uniform numbers approaches one half.

==========  ==============================================
symbol      meaning
==========  ==============================================
``k``       how many numbers the mean is taken over
``e_k``     distance of that mean from one half
==========  ==============================================
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["errors_of_mean", "slope"]


def errors_of_mean(draws: Tensor, sizes: list[int]) -> Tensor:
    """Return the distance of the mean of the first ``k`` numbers from one half.

    Implements Eq. (1), Sec. 2 of the paper.

    Args:
        draws: uniform numbers, ``(B, N)``.
        sizes: the values of ``k``, each in 1 .. N.

    Returns:
        The errors ``e_k``, ``(B, len(sizes))``.
    """
    k = torch.tensor(sizes, dtype=draws.dtype, device=draws.device)
    sums = draws.cumsum(-1)[:, torch.tensor(sizes) - 1]
    return (sums / k - 0.5).abs()


def slope(sizes: list[int], errors: Tensor) -> Tensor:
    """Return the least-squares slope of ``log e_k`` against ``log k``, the exponent of the paper's Theorem 1.

    Args:
        sizes: the values of ``k``, at least two different ones.
        errors: the errors ``e_k``, ``(B, len(sizes))``, positive.

    Returns:
        One slope a row, ``(B,)``.
    """
    x = torch.tensor(sizes, dtype=errors.dtype, device=errors.device).log()
    x = x - x.mean()
    return (x * errors.log()).sum(-1) / (x * x).sum()

"""Device, seeds and determinism."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from reprobook.errors import UserError

__all__ = ["resolve_device", "make_deterministic", "stack_over_seeds"]


def resolve_device(name: str = "auto", dtype: torch.dtype = torch.float32) -> torch.device:
    """Return the device of a name, if this machine has it and it can compute in ``dtype``.

    Args:
        name: ``auto`` (CUDA if there is one, else Apple's MPS, else the CPU), ``cpu``, ``cuda``,
            ``cuda:N`` or ``mps``.
        dtype: the precision that will be asked of it. MPS has no float64, so ``auto`` passes it over
            then.

    Raises:
        UserError: if the name is none of these, this machine does not have that device, or the device
            lacks the precision.
    """
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() and dtype != torch.float64 else []
    if name == "auto":
        return torch.device((cuda + mps + ["cpu"])[0])
    if name == "mps" and dtype == torch.float64:
        raise UserError("device 'mps' cannot compute in float64, which this chapter needs: use cpu or cuda")
    if name not in ("cpu", *cuda, *mps) and not (name == "cuda" and cuda):
        there = ", ".join(["cpu", *cuda, *mps])
        raise UserError(f"device '{name}' is not to be had: this machine has {there}")
    return torch.device(name)


def make_deterministic() -> None:
    """Ask torch for deterministic algorithms, so that a rerun on the same machine gives the same bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


def stack_over_seeds(
    draw: Callable[[torch.Generator], tuple[Tensor, ...]],
    seeds: Iterable[int],
    device: torch.device | str = "cpu",
) -> tuple[Tensor, ...]:
    """Call ``draw`` once a seed and stack what it returns along a new leading dimension.

    The generators are on the CPU whatever the device, and each seed has its own, so seed 7 gives the same
    numbers alone, in a batch of a hundred, and on a GPU.

    Args:
        draw: a function of a generator that returns a tuple of tensors of fixed shapes.
        seeds: the seeds, in the order of the leading dimension.
        device: where the stacked tensors go.

    Returns:
        A tuple of tensors, ``(B, *shape)`` each, with one entry a seed.
    """
    draws = [draw(torch.Generator().manual_seed(seed)) for seed in seeds]
    return tuple(torch.stack(column).to(device) for column in zip(*draws, strict=True))

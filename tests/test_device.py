"""Names of devices, precisions, and the independence of draws from the batch they are in."""

import pytest
import torch
from torch.testing import assert_close

from reprobook.device import make_deterministic, resolve_device, stack_over_seeds
from reprobook.errors import UserError


@pytest.fixture
def machine(monkeypatch):
    """Return a function that makes torch believe in other hardware."""

    def pretend(gpus: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("gpus", "mps", "dtype", "chosen"),
    [
        (0, False, torch.float32, "cpu"),
        (2, False, torch.float32, "cuda:0"),
        (2, False, torch.float64, "cuda:0"),
        (2, True, torch.float32, "cuda:0"),
        (0, True, torch.float32, "mps"),
        (0, True, torch.float64, "cpu"),
    ],
)
def test_auto_takes_the_best_device_that_has_the_precision(machine, gpus, mps, dtype, chosen):
    machine(gpus, mps)
    assert resolve_device("auto", dtype) == torch.device(chosen)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_a_device_that_is_there_is_returned_as_named(machine, name):
    machine(gpus=2)
    assert resolve_device(name) == torch.device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "gpu", "", "cpu:0", "CPU"])
def test_a_device_that_is_not_there_is_one_line_with_those_that_are(machine, name):
    machine()
    with pytest.raises(UserError) as error:
        resolve_device(name)
    assert str(error.value) == f"device '{name}' is not to be had: this machine has cpu"


def test_a_gpu_beyond_the_last_is_refused(machine):
    machine(gpus=2)
    with pytest.raises(UserError, match="'cuda:2' is not to be had: this machine has cpu, cuda:0, cuda:1"):
        resolve_device("cuda:2")


def test_mps_is_refused_where_float64_is_needed(machine):
    machine(mps=True)
    assert resolve_device("mps") == torch.device("mps")
    with pytest.raises(UserError, match="'mps' cannot compute in float64"):
        resolve_device("mps", torch.float64)


def test_a_seed_gives_the_same_numbers_alone_and_in_a_batch():
    def draw(generator):
        return torch.randn(3, 2, generator=generator), torch.rand(4, generator=generator)

    batch = stack_over_seeds(draw, range(5, 12))
    assert [tuple(t.shape) for t in batch] == [(7, 3, 2), (7, 4)]
    for i, seed in enumerate(range(5, 12)):
        alone = stack_over_seeds(draw, [seed])
        for together, single in zip(batch, alone, strict=True):
            assert_close(together[i], single[0], rtol=0, atol=0)


def test_different_seeds_give_different_numbers():
    (numbers,) = stack_over_seeds(lambda g: (torch.rand(1, generator=g),), range(100))
    assert len(set(numbers.flatten().tolist())) == 100


def test_draws_leave_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    stack_over_seeds(lambda g: (torch.rand(9, generator=g),), [1, 2])
    assert_close(torch.rand(2), expected, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_a_seed_gives_the_same_numbers_on_a_gpu():
    def draw(generator):
        return (torch.randn(64, generator=generator),)

    (there,), (here,) = stack_over_seeds(draw, [1, 2], "cuda"), stack_over_seeds(draw, [1, 2])
    assert there.device.type == "cuda"
    assert_close(there.cpu(), here, rtol=0, atol=0)


def test_determinism_is_switched_on(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        make_deterministic()
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(before)

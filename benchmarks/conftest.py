"""Speed is measured as readers have it: without the checks of shapes and types that the tests switch on."""

from collections.abc import Iterator

import pytest
import torch
from jaxtyping import config

config.update("jaxtyping_disable", True)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

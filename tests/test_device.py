"""How many threads PyTorch takes, and where."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gamegen.device import keep_helpers_to_one_thread


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_that_begin_later_compute_alone(two_threads):
    keep_helpers_to_one_thread()
    with ThreadPoolExecutor(1) as helper:
        assert helper.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == 2

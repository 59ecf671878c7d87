"""How many threads PyTorch takes, and where."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gamegen.device import compute_dtype, keep_helpers_to_one_thread, one_thread
from tests.threads import threads


def test_threads_that_begin_later_compute_alone():
    with threads(2):
        keep_helpers_to_one_thread()
        with ThreadPoolExecutor(1) as helper:
            assert helper.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("has_amx, expected", [(False, torch.float32), (True, torch.bfloat16)])
def test_what_a_cpu_computes_in_depends_on_the_cpu_alone(monkeypatch, has_amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    assert compute_dtype(torch.device("cpu")) == expected


def test_pytorch_computes_alone_only_as_long_as_it_is_asked_to():
    with threads(2):
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with one_thread(enabled=False):
            assert torch.get_num_threads() == 2

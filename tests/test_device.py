"""How many threads PyTorch takes, and where."""

from concurrent.futures import ThreadPoolExecutor

import torch

from gamegen.device import keep_helpers_to_one_thread
from tests.threads import threads


def test_threads_that_begin_later_compute_alone():
    with threads(2):
        keep_helpers_to_one_thread()
        with ThreadPoolExecutor(1) as helper:
            assert helper.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 2

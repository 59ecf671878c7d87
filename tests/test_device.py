"""PyTorch's threads and dtype, and the memory of a process that trains."""

import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


PAGES_OF_A_TENSOR = """
import torch
from gamegen.device import keep_freed_memory
keep_freed_memory()
resident = lambda: int(open("/proc/self/statm").read().split()[1])
before = resident()
for _ in range(3):
    tensor = torch.ones(48 * 2**20)
    after = resident()
    pointer = tensor.data_ptr()
    lines = iter(open("/proc/self/smaps"))
    for line in lines:
        if "-" in (place := line.split()[0]) and ":" not in place:
            start, stop = (int(side, 16) for side in place.split("-"))
            is_here = start <= pointer < stop
        elif is_here and line.startswith("VmFlags"):
            flags = line.split()[1:]
    del tensor
print("hg" in flags, (after - before) * 4096 < 800 * 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no huge pages here")
def test_large_blocks_lie_in_huge_pages_and_are_kept_without_taking_memory_beforehand():
    done = subprocess.run(
        [sys.executable, "-c", PAGES_OF_A_TENSOR], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "True"]

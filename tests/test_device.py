"""How many threads PyTorch takes, and where."""

from concurrent.futures import ThreadPoolExecutor

import torch

from gamegen import device
from gamegen.device import compute_dtype, keep_helpers_to_one_thread, one_thread
from tests.threads import threads


def test_threads_that_begin_later_compute_alone():
    with threads(2):
        keep_helpers_to_one_thread()
        with ThreadPoolExecutor(1) as helper:
            assert helper.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 2


def test_bfloat16_is_computed_in_only_where_it_is_quicker(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    device._cpu_dtype.cache_clear()
    assert compute_dtype(cpu) == torch.float32
    # A processor that says it multiplies bfloat16 may still be slow at it.
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    seconds = {torch.float32: 1.0, torch.bfloat16: 2.0}
    clock = {"now": 0.0}

    def mm(a, b):
        clock["now"] += seconds[a.dtype]

    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(device.time, "perf_counter", lambda: clock["now"])
    for taken, expected in ((2.0, torch.float32), (1.0, torch.float32), (0.5, torch.bfloat16)):
        seconds[torch.bfloat16] = taken
        device._cpu_dtype.cache_clear()
        assert compute_dtype(cpu) == expected
    device._cpu_dtype.cache_clear()


def test_pytorch_computes_alone_only_as_long_as_it_is_asked_to():
    with threads(2):
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with one_thread(enabled=False):
            assert torch.get_num_threads() == 2

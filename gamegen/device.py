"""Choice of device and dtype, and settings of PyTorch's threads and memory."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def default_device() -> torch.device:
    """The best device PyTorch sees: an accelerator (CUDA, ROCm, XPU, MPS), else the CPU."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    return torch.device("cpu")


def compute_dtype(device: torch.device) -> torch.dtype:
    """The dtype of mixed precision: bfloat16 where the hardware multiplies it faster than float32, else float32.

    A CPU multiplies bfloat16 faster with AMX only: others emulate it, or have AVX-512 BF16, which halves the speed of
    some. The CPU's features decide, not a measurement: replicas of one machine must draw the same pictures.
    """
    if device.type == "cpu":
        return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.float32 if device.type == "mps" else torch.bfloat16


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision in `compute_dtype`; does nothing where that is float32."""
    dtype = compute_dtype(device)
    enabled = dtype is not torch.float32
    return torch.autocast(device.type, dtype if enabled else torch.bfloat16, enabled=enabled)


@contextmanager
def one_thread(enabled: bool = True) -> Iterator[None]:
    """Limits PyTorch to the calling thread inside a `with` block, for use beside a library with its own threads.

    PyTorch's threads would spin for a while after each small operation, on the cores that the other library needs.
    """
    threads = torch.get_num_threads()
    if not enabled or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def keep_helpers_to_one_thread() -> None:
    """Limits PyTorch to one thread in every thread started from now on; the calling thread keeps its number.

    GNU OpenMP gives every thread that computes in parallel a pool of its own. As soon as all pools together have more
    threads than the machine has cores, each operation puts its pool to sleep and wakes it, where it would spin: one
    thread that stacks batches made training on two cores a quarter slower.
    """
    # Fixes the calling thread's number, which would otherwise become the one set last.
    torch.get_num_threads()
    # A thread's setting is the default of threads that start later; running threads keep theirs.
    helper = threading.Thread(target=torch.set_num_threads, args=(1,))
    helper.start()
    helper.join()


def keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks instead of returning them to the kernel.

    Training on a CPU frees and takes hundreds of megabytes each step; without this, page faults take more than
    half of the time. Does nothing on other C libraries.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, 2**31 - 1)
    libc.mallopt(m_top_pad, 256 * 2**20)

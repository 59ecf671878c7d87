"""One place that chooses where tensors live and how they are computed."""

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
    """bfloat16 where the hardware multiplies it quicker than float32, else float32.

    On a CPU that is where it has AMX: others emulate bfloat16, or have AVX-512 BF16, which halves the speed of some.
    What a CPU can do decides, not a measurement: replicas of one machine must draw the same pictures.
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
    """PyTorch computes in the calling thread alone, where another library has threads of its own beside it.

    PyTorch's would spin for a while after each small operation, on the cores that the others need.
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
    """Threads started from now on compute each by themselves; the calling one keeps its number of threads.

    GNU OpenMP gives every thread that computes in parallel a pool of its own. As soon as all pools together have more
    threads than the machine has cores, each operation puts its pool to sleep and wakes it, where it would spin: one
    thread that stacks batches made training on two cores a quarter slower.
    """
    # Settles the calling thread's number, which would be what is set last otherwise.
    torch.get_num_threads()
    # What one thread sets is where those that begin later start from; those that have begun keep theirs.
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

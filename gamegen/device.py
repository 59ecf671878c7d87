"""Choice of device and dtype, and settings of PyTorch's threads and memory."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_HUGE_PAGE_BYTES = 2 * 2**20


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
    """Tells glibc to keep freed blocks instead of returning them to the kernel, in huge pages where there are any.

    Training on a CPU frees and takes hundreds of megabytes each step; without this, page faults take more than
    half of the time. Tensors scattered over gigabytes of 4 KB pages have the processor walk page tables, which in a
    virtual machine can take longer than to compute. Does nothing on other C libraries.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, -1)
    libc.mallopt(m_top_pad, 256 * 2**20)
    _use_huge_pages(libc)


def _use_huge_pages(libc: ctypes.CDLL) -> None:
    """Grows the heap to half of the free memory, untouched, and asks for huge pages there.

    Blocks that are taken from then on lie in it. glibc does so by itself if `GLIBC_TUNABLES` says
    `glibc.malloc.hugetlb=1` before a process starts, which is too late here.
    """
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    block = libc.malloc(size)
    if not block:
        return
    first, last = -(-block // _HUGE_PAGE_BYTES), (block + size) // _HUGE_PAGE_BYTES
    madv_hugepage = 14
    libc.madvise(first * _HUGE_PAGE_BYTES, (last - first) * _HUGE_PAGE_BYTES, madv_hugepage)
    libc.free(block)

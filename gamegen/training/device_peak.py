"""Peak floating-point rate of a device, the denominator of model FLOP utilisation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

import torch

from gamegen.device import compute_dtype

DENSE_BF16_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
"""Dense bfloat16 rates with float32 sums, from data sheets, by a part of the device's name; the first match counts."""
_SIZE = 1024
_REPEATS = 5


@dataclass(frozen=True)
class Peak:
    """Floating-point operations a second that a device can do, and the source of the figure."""

    flops_per_s: float
    source: str


@lru_cache(maxsize=8)
def device_peak(device: torch.device) -> Peak:
    """Peak rate of a device: the data sheet's for a known GPU, else measured on a large matrix product."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, tflops in DENSE_BF16_TFLOPS.items():
            if known in name:
                return Peak(tflops * 1e12, f"data sheet of {known}, dense bfloat16")
    return _measured(device)


def _measured(device: torch.device) -> Peak:
    dtype = compute_dtype(device)
    # Filled and not drawn: training's random numbers must stay as they are.
    a = torch.full((_SIZE, _SIZE), 0.5, dtype=dtype, device=device)
    torch.mm(a, a)
    seconds = min(_timed_product(a) for _ in range(_REPEATS))
    threads = f", threads: {torch.get_num_threads()}" if device.type == "cpu" else ""
    source = (
        f"measured: best of {_REPEATS} products of {_SIZE}x{_SIZE} in {str(dtype).split('.')[1]}{threads}"
    )
    return Peak(2 * _SIZE**3 / seconds, source)


def _timed_product(a: torch.Tensor) -> float:
    began = time.perf_counter()
    # Reading one value waits for the device.
    torch.mm(a, a)[0, 0].item()
    return time.perf_counter() - began

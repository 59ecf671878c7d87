"""Benchmark results as tables and as JSON."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gamegen.bench.paired import Measured, Ratio, ratio
from gamegen.device import compute_dtype, default_device
from gamegen.training.device_peak import device_peak


def machine() -> dict[str, str]:
    """Facts of the machine for the head of a report."""
    device = default_device()
    is_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_cuda else platform.processor() or platform.machine()
    peak = device_peak(device)
    return {
        "device": name,
        "threads": str(torch.get_num_threads()),
        "computes in": str(compute_dtype(device)).removeprefix("torch."),
        "matmul peak": f"{peak.flops_per_s / 1e9:,.0f} GFLOP/s ({peak.source})",
        "torch": torch.__version__,
    }


def table(title: str, results: Sequence[Measured]) -> Table:
    """Table of stage times: mean, percentiles and share of the total, variant by variant."""
    shown = Table(title=title)
    for name in ("", "stage", "mean ms", "p50", "p95", "p99", "share"):
        shown.add_column(name, justify="left" if name in ("", "stage") else "right")
    for result in results:
        facts: dict[str, Any] = result.facts()
        stages: dict[str, dict[str, float]] = facts["stages_ms"]
        whole = stages["total"]["mean"]
        for i, (stage, ms) in enumerate(stages.items()):
            figures = [f"{ms[key]:,.1f}" for key in ("mean", "p50", "p95", "p99")]
            is_last = stage == "total"
            shown.add_row(
                result.variant if i == 0 else "",
                stage,
                *figures,
                f"{ms['mean'] / whole:.0%}",
                end_section=is_last,
            )
    return shown


def rates(results: Sequence[Measured]) -> Table:
    """Table of frame rates, work, share of the machine's peak, and memory."""
    peak = device_peak(default_device()).flops_per_s
    shown = Table("", "frames/s", "GFLOP a round", "GFLOP/s", "of the peak", "memory")
    for r in results:
        shown.add_row(
            r.variant,
            f"{r.fps:.2f}",
            f"{r.flop_per_round / 1e9:,.2f}",
            f"{r.flops_per_s / 1e9:,.0f}",
            f"{r.flops_per_s / peak:.1%}",
            f"{r.memory_bytes / 2**20:,.0f} MiB ({r.memory_of})",
        )
    return shown


def report(title: str, results: Sequence[Measured], json_file: Path | None) -> None:
    """Prints tables and the speed ratio of the first variant to each other one; writes them as JSON if asked."""
    console, facts = Console(), machine()
    console.print(", ".join(f"{name}: {value}" for name, value in facts.items()), highlight=False)
    console.print(table(title, results))
    console.print(rates(results))
    ratios: dict[str, Ratio] = {other.variant: ratio(results[0], other) for other in results[1:]}
    for name, r in ratios.items():
        console.print(
            f"{results[0].variant} draws {r.value:.2f} [{r.low:.2f}, {r.high:.2f}] times the frames a second of {name}",
            highlight=False,
        )
    if json_file:
        content = {
            "command": sys.argv,
            "machine": facts,
            "results": [r.facts() for r in results],
            "ratios": {name: [r.value, r.low, r.high] for name, r in ratios.items()},
        }
        json_file.write_text(json.dumps(content, indent=2) + "\n")
        console.print(f"{json_file}")

"""Report of a run: a table for the terminal, and JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from loadtest.load.crowd import LoadConfig
from loadtest.load.load_figures import LATE_S, STALL_S, LoadFigures, Summary
from loadtest.load.server_memory import Growth, ServerMemory

_NONE = "–"
STAGES = {
    "wait": "until its chunk begins",
    "step": "step",
    "decode": "decode",
    "rest": "waiting for the frame's turn, and on the way",
}
"""Names of the stages of `stages_ms` in tables."""


def percentiles(ms: Summary | None) -> str:
    """p50, p95 and p99 of a summary."""
    if ms is None:
        return _NONE
    return " / ".join(f"{ms[name]:.0f}" for name in ("p50", "p95", "p99")) + " ms"


def table(config: LoadConfig, result: LoadFigures) -> Table:
    """Table of the figures, for the terminal."""
    shown = Table(
        "", "", title=f"{config.sessions} players for {result.seconds / 60:.1f} minutes, {config.url}"
    )
    for section in (_visits(result), _stream(result, config.fps), _answers(result), _memory(result.memory)):
        for name, value in section.items():
            shown.add_row(name, value)
        shown.add_section()
    return shown


def _visits(r: LoadFigures) -> dict[str, str]:
    lost = "".join(f"\n{count} x {reason}" for reason, count in sorted(r.lost.items()))
    return {
        "players at once, mean / max": f"{r.players_mean:.1f} / {r.players_max}",
        "sessions opened": str(r.counts.opened),
        "sessions lost": f"{r.counts.lost}{lost}",
        "sessions without a frame": str(r.saw_nothing),
        "reconnects / migrations": f"{r.counts.reconnects} / {r.migrations}",
        "refused / of them turned away for good": f"{r.counts.refused} / {r.counts.turned_away}",
        "requests failed / error messages": f"{r.counts.failed} / {r.errors}",
        "messages: queued / bye": f"{r.queued} / {r.goodbyes}",
    }


def _stream(r: LoadFigures, fps: int) -> dict[str, str]:
    stalls = f"{_number(r.stalls_per_minute, '.2f')} ({r.stalls}, longest gap {_number(r.longest_gap_ms, '.0f')} ms)"
    return {
        "frames a second, each, mean / p5": f"{_number(r.fps_mean, '.2f')} / {_number(r.fps_p5, '.2f')}",
        "from joining to the first frame, p50 / p95 / p99": percentiles(r.first_frame_ms),
        "time between frames, p50 / p95 / p99": percentiles(r.gaps_ms),
        f"stalls over {STALL_S * 1e3:.0f} ms a player-minute": stalls,
        f"chunks that came within {LATE_S * 1e3:.0f} ms of when they were due": _number(r.attainment, ".2%"),
        f"chunks that were due at {fps} frames a second": _number(r.on_pace, ".2%"),
        "frames dropped, of those made": f"{r.dropped} of {r.counts.frames + r.dropped}",
        "received / a frame": f"{r.bytes_per_s / 1e3:.1f} kB/s / {_number(r.bytes_per_frame, '.0f')} bytes",
    }


def _answers(r: LoadFigures) -> dict[str, str]:
    stages = {f"  of it: {STAGES[name]}": percentiles(ms) for name, ms in r.stages_ms.items()}
    return {"from key to its first frame, p50 / p95 / p99": percentiles(r.key_to_frame_ms), **stages}


def _memory(memory: ServerMemory | None) -> dict[str, str]:
    if memory is None:
        return {}
    total = memory.total
    rows = {
        "memory of the server, first / last / most": f"{total.first_mb:.0f} / {total.last_mb:.0f} / "
        f"{total.highest_mb:.0f} MB",
        "  its growth": _slope(total),
        "  in the second half": _slope(memory.second_half),
    }
    slopes = {name: g.slope_mb_per_minute for name, g in memory.by_name.items()}
    steepest = max(slopes, key=lambda name: slopes[name] or 0.0)
    if len(slopes) > 1 and (slopes[steepest] or 0.0) > 0:
        rows[f"  most of it: {steepest}"] = _slope(memory.by_name[steepest])
    return rows


def _slope(growth: Growth) -> str:
    slope, low, high, fit = growth.slope_mb_per_minute, growth.low, growth.high, growth.r_squared
    if slope is None:
        return f"{_NONE} (three samples at least are needed)"
    return f"{slope:.2f} [{low:.2f}, {high:.2f}] MB a minute, R² {fit:.2f}, {growth.samples} samples"


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)


def missed(result: LoadFigures, limits: Mapping[str, float | None]) -> list[str]:
    """Sentences about the figures (by their names in `LoadFigures`) that are below their limits or unknown."""
    sentences = []
    for name, limit in limits.items():
        value: float | None = getattr(result, name)
        if limit is not None and (value is None or value < limit):
            found = "is not known" if value is None else f"= {value:.4g}"
            sentences.append(f"{name} {found}: at least {limit:g} was required")
    return sentences


def write_json(file: Path, config: LoadConfig, status: dict[str, Any], result: LoadFigures) -> None:
    """Writes the configuration, the served model and the figures as JSON."""
    model = {name: fact for name, fact in status.get("model", {}).items() if name != "card"}
    content = {
        "command": ["gamegen load", *sys.argv[1:]],
        "config": dataclasses.asdict(config),
        "model": model,
        "versions": status.get("versions"),
        "figures": dataclasses.asdict(result),
    }
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

"""Report of a run: a table for the terminal, and JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from cluster.chaos.chaos_verdict import ChaosVerdict
from cluster.chaos.monkey import Kill


def table(verdict: ChaosVerdict, kills: Sequence[Kill], clients: int, wall_s: float) -> Table:
    """Table of the verdict and the kills, for the terminal."""
    shown = Table("", "", title=f"{verdict.jobs} orders of {clients} clients, and what was killed meanwhile")
    rows = {
        "completed, exactly once": f"{verdict.completed} of {verdict.jobs}",
        "frames as an undisturbed run's": f"{verdict.same} of {verdict.jobs}",
        **{f"{kind} killed": f"{count} times" for kind, count in _by_kind(kills).items()},
        "interrupted while they were drawn": str(verdict.interrupted),
        "steps that were repeated, at most": str(max(verdict.repeated, default=0)),
        "  on average": f"{_mean(verdict.repeated):.1f}",
        "faults": str(len(verdict.faults)),
        "time": f"{wall_s:.0f} s",
    }
    for name, value in rows.items():
        shown.add_row(name, value)
    return shown


def write_json(
    file: Path, config: dict[str, Any], verdict: ChaosVerdict, kills: Sequence[Kill], wall_s: float
) -> None:
    """Writes the configuration, the verdict and the kills as JSON."""
    content = {
        "command": ["gamegen chaos videos", *sys.argv[1:]],
        "config": config,
        "wall_s": round(wall_s, 1),
        "kills": [dataclasses.asdict(kill) for kill in kills],
        "verdict": dataclasses.asdict(verdict),
    }
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _by_kind(kills: Sequence[Kill]) -> dict[str, int]:
    return dict(sorted(Counter(kill.kind.value for kill in kills).items()))


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0

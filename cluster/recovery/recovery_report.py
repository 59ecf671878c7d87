"""Report of a recovery run: a table for the terminal, and JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from cluster.recovery.recovery_figures import RecoveryFigures
from loadtest.load.load_figures import STALL_S

NAMES = {
    "world": "World",
    "decoder": "Decoder",
    "ingress": "Ingress",
    "worker": "worker node",
    "head": "head",
}


def table(sessions: int, results: Sequence[RecoveryFigures]) -> Table:
    """Table of the figures, for the terminal."""
    shown = Table("", *(NAMES[r.kind] for r in results), title=f"{sessions} players, and what was killed")
    rows: dict[str, Callable[[RecoveryFigures], str]] = {
        "times": lambda r: str(r.kills),
        "sessions lost": lambda r: f"{r.lost} of {r.sessions}",
        f"pictures that stopped for over {STALL_S * 1e3:.0f} ms": lambda r: f"{r.stopped} of {r.sessions}",
        "  for how long, p50": lambda r: _seconds(r.gap_s.p50 if r.gap_s else None),
        "  p95": lambda r: _seconds(r.gap_s.p95 if r.gap_s else None),
        "  at most": lambda r: _seconds(r.gap_s.max if r.gap_s else None),
        "chunks skipped, at most in one session": lambda r: f"{r.skipped_chunks}, {r.most_skipped}",
        "sessions out of order": lambda r: str(r.out_of_order),
        "all replicas back after, p50": lambda r: _seconds(r.whole_s.p50),
        "  at the latest": lambda r: _seconds(r.whole_s.max),
    }
    for name, cell in rows.items():
        shown.add_row(name, *map(cell, results))
    return shown


def write_json(file: Path, config: dict[str, Any], results: Sequence[RecoveryFigures]) -> None:
    """Writes the configuration and the figures as JSON."""
    content = {
        "command": ["gamegen bench recovery", *sys.argv[1:]],
        "config": config,
        "figures": [dataclasses.asdict(one) for one in results],
    }
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def missed(results: Sequence[RecoveryFigures], limit_s: float | None) -> list[str]:
    """Sentences about the kinds of kills that lost a session, or whose p95 of pauses is above the limit."""
    if limit_s is None:
        return []
    sentences = []
    for r in results:
        if r.lost:
            sentences.append(f"{NAMES[r.kind]}: {r.lost} of {r.sessions} sessions were lost")
        elif r.gap_s is not None and r.gap_s.p95 > limit_s:
            sentences.append(
                f"{NAMES[r.kind]}: p95 = {r.gap_s.p95:.2f} s, at most {limit_s:g} s was required"
            )
    return sentences


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.2f} s"

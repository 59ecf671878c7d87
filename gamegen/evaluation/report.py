"""The report of an evaluation: what was measured, on which weights, in which worlds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from gamegen.config import build, to_dict

REPORT_FILE = "report.json"


@dataclass(frozen=True)
class EvaluationReport:
    """Figures by name, and the value of each world behind them.

    The worlds are those of seeds `first_seed` to `first_seed + num_seeds - 1`; `weights_sha256` is the sum of the
    weights file in the checkpoint's card.
    """

    weights_sha256: str
    first_seed: int
    num_seeds: int
    figures: dict[str, float]
    per_seed: dict[str, list[float]] = field(default_factory=dict)


def write_report(report: EvaluationReport, file: Path) -> None:
    """Writes a report as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(to_dict(report), indent=2) + "\n")


def read_report(file: Path) -> EvaluationReport:
    """Reads a report; raises ValueError that names the file and what is wrong with it."""
    try:
        data = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot read the evaluation report {file}: {error}") from error
    return build(EvaluationReport, data, str(file))

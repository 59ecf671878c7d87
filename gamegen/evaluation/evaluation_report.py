"""The report of an evaluation: its figures and curves, the weights and the worlds, as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from gamegen.config import build, to_dict
from gamegen.evaluation.bootstrap import Estimate

REPORT_FILE = "report.json"
_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure with its 95 % interval over its `units` ("64 seeds from 1000000").

    `replicates` are its values in each draw of those units (see `bootstrap`), `per_unit` the values of the units where
    it is their mean; `real` is the figure of real clips, None where they were not measured.
    """

    value: float
    low: float
    high: float
    units: str
    replicates: tuple[float, ...] = ()
    per_unit: tuple[float, ...] = ()
    real: float | None = None

    @classmethod
    def of(
        cls, estimate: Estimate, units: str, per_unit: tuple[float, ...] = (), real: float | None = None
    ) -> Figure:
        """A figure of an estimate, rounded to the digits of a report."""
        return cls(
            value=rounded(estimate.value),
            low=rounded(estimate.low),
            high=rounded(estimate.high),
            units=units,
            replicates=tuple(map(rounded, estimate.replicates)),
            per_unit=tuple(map(rounded, per_unit)),
            real=None if real is None else rounded(real),
        )


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Means with intervals over time, `x_s` in seconds; `real` is the level of real clips."""

    x_s: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    real: float | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """All figures and curves of one checkpoint.

    `weights_sha256` is the SHA-256 of the weights file in the checkpoint's card, `skipped` names measurements that were
    left out, with the reason, and `wall_s` is the time of generation over all runs together.
    """

    checkpoint: str
    weights_sha256: str
    figures: dict[str, Figure]
    curves: dict[str, Curve] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    wall_s: float = 0.0


def rounded(value: float) -> float:
    """Rounds to the digits of a report."""
    return float(f"{value:.{_DIGITS}g}")


def write_report(report: EvaluationReport, file: Path) -> None:
    """Writes a report as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(to_dict(report), indent=1) + "\n", encoding="utf-8")


def read_report(file: Path) -> EvaluationReport:
    """Reads a report; raises ValueError naming the file and its fault."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot read the evaluation report {file}: {error}") from error
    return build(EvaluationReport, data, str(file))

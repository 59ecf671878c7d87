"""The report as one HTML page that needs nothing else: tables, curves and pictures, for light and dark screens."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from gamegen.evaluation.evaluation_report import Curve, EvaluationReport, Figure
from gamegen.evaluation.metrics import (
    CONTROL,
    GROUPS,
    LIKENESS,
    MEMORY,
    METRICS,
    NEXT,
    QUALITY,
    SCENES,
    WORDS,
)
from gamegen.media.mp4 import write_mp4
from gamegen.pages import Axes, document, jpeg, jpeg_url

PAGE_FILE = "report.html"
SHEET_FILE = "sheet.png"
VIDEO_FILE = "real-and-drawn.mp4"
CONTINUATIONS = "continuations"
_GAP_PX = 4
_NUM_TICKS = 4
_NOTES = {
    CONTROL: "Shares of seeds whose optical flow goes where the held key says.",
    WORDS: "Shares of seeds whose pictures change as the words say.",
    SCENES: "SR-E and SR-C are each seed's share of what it was asked for that is seen, averaged. The column of real "
    "clips is how often the classifiers are right there: more cannot be reached.",
    NEXT: "The chunk (four frames) after a stretch of a held-out clip, drawn from its true history and true keys.",
    LIKENESS: "Distances between the features of drawn and of held-out real frames; the column of real clips is that "
    "of every other clip to the ones between. On other features and fewer samples than FID and FVD, so other numbers; "
    "fewer seeds make them larger.",
    MEMORY: "Worlds turn away until nothing of the view is left, and back. The revisit distance is where the distance "
    "between both views lies between that of real clips whose player looked away and came back, or none, and that to "
    "the views of other seeds with the same words.",
    QUALITY: "After VBench, with other networks: compare with real clips and with each other, not with published ones.",
}
_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #667; --line: #d5d8de; --paper: #fff; --curve: #1f6feb;
  --good: #176b3a; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa3af; --line: #383d45; --paper: #15171a;
  --curve: #6ea8fe; --good: #6fcf97; --bad: #ff8a80; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
p, li, figcaption { color: var(--soft); } a { color: var(--curve); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; min-width: 46rem; table-layout: fixed; }
td, th { padding: .3rem .8rem .3rem 0; text-align: left;
  border-bottom: 1px solid var(--line); } td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--soft); } th:first-child { width: 34%; }
th:nth-child(2) { width: 21%; } td.units { color: var(--soft); }
tr.decides td:first-child { font-weight: 600; }
.reached { color: var(--good); } .missed { color: var(--bad); }
figure { margin: 1rem 0; } img { max-width: 100%; image-rendering: auto; }
.curves { display: flex; flex-wrap: wrap; gap: 1rem 2rem; } .curves figure { flex: 1 1 26rem; margin: 0; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 11px; }
.axis { stroke: var(--line); } .band { fill: var(--curve); opacity: .18; }
.mean { fill: none; stroke: var(--curve); stroke-width: 2; } .dot { fill: var(--curve); }
.real { stroke: var(--soft); stroke-dasharray: 5 4; }
"""


def write_page(report: EvaluationReport, pictures: dict[str, np.ndarray], folder: Path) -> None:
    """Writes the page, one contact sheet and, where clips were continued, the video of real and generated ones."""
    folder.mkdir(parents=True, exist_ok=True)
    continued = pictures.get(CONTINUATIONS)
    if continued is not None:
        write_mp4(folder / VIDEO_FILE, side_by_side(continued))
    strips = {name: sheet(value) for name, value in pictures.items() if name != CONTINUATIONS}
    Image.fromarray(_stacked(list(strips.values()))).save(folder / SHEET_FILE)
    (folder / PAGE_FILE).write_text(page(report, strips, has_video=continued is not None))


def page(report: EvaluationReport, sheets: dict[str, np.ndarray], has_video: bool) -> str:
    """HTML of the report; `sheets` are pictures uint8 `(H, W, 3)` by name."""
    sections = [_group(group, report) for group in GROUPS]
    curves = "".join(_figure_of_curve(name, curve) for name, curve in report.curves.items())
    images = "".join(
        f'<figure><img alt="{escape(name)}" src="{jpeg_url(jpeg(image))}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, image in sheets.items()
    )
    video = f'<p><a href="{VIDEO_FILE}">Real clips (left) and what the model made of them (right)</a></p>'
    skipped = "".join(f"<li>{escape(reason)}</li>" for reason in report.skipped)
    body = (
        f"<h1>{escape(report.checkpoint)}</h1><p>Weights {report.weights_sha256[:12]}. Values with 95&nbsp;% intervals "
        "by resampling seeds or clips. Figures in bold decide whether a checkpoint is better than another. "
        f"Drawing took {report.wall_s / 60:.1f} minutes.</p>"
        + "".join(sections)
        + (f'<h2>Over time</h2><div class="curves">{curves}</div>' if curves else "")
        + f"<h2>Pictures</h2>{video if has_video else ''}{images}"
        + (f"<h2>Left out</h2><ul>{skipped}</ul>" if skipped else "")
    )
    return document(title=f"{report.checkpoint}: evaluation", style=_STYLE, body=body)


def shown(figure: Figure) -> str:
    """A value with its interval."""
    return f"{_number(figure.value)} [{_number(figure.low)}, {_number(figure.high)}]"


def sheet(strips: np.ndarray) -> np.ndarray:
    """Strips `(strips, frames, H, W, 3)` one below the other, uint8 `(H', W', 3)`."""
    return _stacked([np.concatenate(list(strip), 1) for strip in strips])


def side_by_side(continued: np.ndarray) -> np.ndarray:
    """Real and drawn videos in turn, `(2 * clips, T, H, W, 3)`, as one video: a row a clip, real left, drawn right."""
    rows = []
    for real, drawn in zip(continued[::2], continued[1::2], strict=True):
        gap = np.zeros((*real.shape[:2], _GAP_PX, 3), np.uint8)
        rows.append(np.concatenate([real, gap, drawn], 2))
    return np.concatenate(rows, 1)


def _group(group: str, report: EvaluationReport) -> str:
    rows = [
        _row(name, figure)
        for name, figure in report.figures.items()
        if name in METRICS and METRICS[name].group == group
    ]
    if not rows:
        return ""
    note = f"<p>{_NOTES[group]}</p>" if group in _NOTES else ""
    head = (
        "<tr><th></th><th>value [interval]</th><th>real clips</th><th>wanted</th><th></th><th>over</th></tr>"
    )
    return f'<h2>{escape(group)}</h2>{note}<div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _row(name: str, figure: Figure) -> str:
    metric = METRICS[name]
    verdict = metric.reached(figure)
    real = "" if figure.real is None else _number(figure.real)
    return (
        f'<tr{" class=decides" if metric.decides else ""} title="{escape(figure.units)}"><td>{escape(name)}</td>'
        f'<td class="number">{shown(figure)}</td><td class="number">{real}</td>'
        f'<td class="number">{metric.wanted()}</td><td class="{verdict.split(",")[0]}">{verdict}</td>'
        f'<td class="units">{_count(figure.units)}</td></tr>'
    )


def _figure_of_curve(name: str, curve: Curve) -> str:
    real = ", dashed: real clips" if curve.real is not None else ""
    return f"<figure>{chart(curve)}<figcaption>{escape(name)} over seconds{real}</figcaption></figure>"


def chart(curve: Curve) -> str:
    """SVG of a curve with its interval as a band, from 0 up."""
    top = max([*curve.high, curve.real or 0, 1e-9]) * 1.05
    right = max(curve.x_s)
    axes = Axes(
        width=560, height=200, left=56, right=12, top=12, bottom=34, x_range=(0, right), y_range=(0, top)
    )

    def points(values: tuple[float, ...]) -> list[str]:
        return axes.points(zip(curve.x_s, values, strict=True))

    def level(value: float, style: str) -> str:
        y = f"{axes.y(value):.1f}"
        return f'<line class="{style}" x1="{axes.left}" x2="{axes.inner_right}" y1="{y}" y2="{y}"/>'

    band = " ".join(points(curve.low) + points(curve.high)[::-1])
    ticks = "".join(
        f"{level(value, 'axis')}"
        f'<text x="{axes.left - 6}" y="{axes.y(value) + 4:.1f}" text-anchor="end">{_number(value)}</text>'
        f'<text x="{axes.x(right * i / _NUM_TICKS):.1f}" y="{axes.height - 12}" text-anchor="middle">'
        f"{right * i / _NUM_TICKS:g} s</text>"
        for i, value in ((i, top * i / _NUM_TICKS) for i in range(_NUM_TICKS + 1))
    )
    real = "" if curve.real is None else level(curve.real, "real")
    dots = "".join(
        f'<circle class="dot" cx="{axes.x(s):.1f}" cy="{axes.y(v):.1f}" r="3">'
        f"<title>{s:g} s: {_number(v)}</title></circle>"
        for s, v in zip(curve.x_s, curve.value, strict=True)
    )
    return (
        f'<svg viewBox="0 0 {axes.width} {axes.height}" role="img">{ticks}'
        f'<polygon class="band" points="{band}"/>{real}'
        f'<polyline class="mean" points="{" ".join(points(curve.value))}"/>{dots}</svg>'
    )


def _count(units: str) -> str:
    """The count alone: the seeds and clips themselves are in the row's title."""
    return " ".join(units.split()[:2])


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _stacked(rows: list[np.ndarray]) -> np.ndarray:
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 2), (0, width - row.shape[1]), (0, 0))) for row in rows])

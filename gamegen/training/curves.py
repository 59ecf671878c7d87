"""Line charts of a run's metrics as inline SVG, coloured by the page's style."""

from __future__ import annotations

import html
import math

import numpy as np

from gamegen.pages import Axes

WIDTH, HEIGHT = 340, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 10, 18
_MAX_POINTS = 300

Series = list[tuple[float, float]]


def chart(title: str, series: dict[str, Series]) -> str:
    """One chart of up to three named series of (step, value); the scale leaves out the outermost hundredth.

    Empty without a finite value.
    """
    series = {name: points for name, raw in series.items() if (points := _thinned(raw))}
    if not series:
        return ""
    values = np.array([y for points in series.values() for _, y in points])
    steps = [x for points in series.values() for x, _ in points]
    low, high = (float(v) for v in np.percentile(values, (1, 99)))
    if math.isclose(low, high):
        low, high = low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1)
    first, last = min(steps), max(steps)
    axes = Axes(
        width=WIDTH,
        height=HEIGHT,
        left=_LEFT,
        right=_RIGHT,
        top=_TOP,
        bottom=_BOTTOM,
        x_range=(first, last),
        y_range=(low, high),
    )
    lines = "".join(
        f'<polyline class="s{i}" points="{" ".join(axes.points(points))}"/>'
        + (_dot(axes, points[0], f"s{i}") if len(points) == 1 else "")
        for i, points in enumerate(series.values())
    )
    keys = " ".join(
        f'<span class="key s{i}">{html.escape(name)} <b>{number(points[-1][1])}</b></span>'
        for i, (name, points) in enumerate(series.items())
    )
    base = axes.base
    return f"""<figure><figcaption><span class="name">{html.escape(title)}</span> {keys}</figcaption>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)} over steps">
<path class="grid" d="M{_LEFT} {_TOP}H{WIDTH - _RIGHT}M{_LEFT} {base}H{WIDTH - _RIGHT}"/>{lines}
<text x="{_LEFT - 4}" y="{_TOP + 6}" text-anchor="end">{number(high)}</text>
<text x="{_LEFT - 4}" y="{base}" text-anchor="end">{number(low)}</text>
<text x="{_LEFT}" y="{HEIGHT - 4}">{first:,.0f}</text>
<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 4}" text-anchor="end">step {last:,.0f}</text></svg></figure>"""


def number(value: float) -> str:
    """A number in about three figures, with thousands separated."""
    if not math.isfinite(value):
        return "-"
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.2e}"


def _thinned(points: Series) -> Series:
    """At most `_MAX_POINTS` points, each the mean of its neighbours."""
    points = [(x, y) for x, y in points if math.isfinite(y)]
    if len(points) <= _MAX_POINTS:
        return points
    pieces = np.array_split(np.array(points), _MAX_POINTS)
    return [(float(piece[-1, 0]), float(piece[:, 1].mean())) for piece in pieces]


def _dot(axes: Axes, point: tuple[float, float], style: str) -> str:
    x, y = point
    return f'<circle class="{style}" r="2.5" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}"/>'

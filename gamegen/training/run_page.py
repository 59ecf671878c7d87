"""The page of a training run: one file, readable without a server and without the network."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gamegen.pages import document, jpeg, jpeg_url
from gamegen.training.curves import chart, number
from gamegen.training.throughput import RATES

REFRESH_S = 15
_SHARES = ("mfu", "input_wait_share")
_RATE_WORDS = {
    "samples_per_s": ("samples/s", "windows of latents, or pieces of video, over all processes"),
    "tokens_per_s": ("tokens/s", "transformer tokens (latents after patching), over all processes"),
    "mfu": ("model FLOP utilisation", "the model's operations by those the device could have done"),
    "input_wait_share": ("input wait share", "part of the step time spent waiting for a batch"),
    "step_s": ("step time, s", "from asking for a batch to the end of the update"),
}
_STYLE = (Path(__file__).parent / "page.css").read_text()


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Facts of a run that do not change while it goes on."""

    title: str
    command: str
    config: str
    machine: dict[str, str]


@dataclass(frozen=True)
class Sheet:
    """A contact sheet as JPEG, and the step whose averaged weights drew it."""

    step: int
    jpeg: bytes

    @classmethod
    def of(cls, step: int, picture: np.ndarray) -> Sheet:
        """Encodes a picture, uint8 `(H, W, 3)`."""
        return cls(step, jpeg(picture))


def render(
    *,
    facts: RunFacts,
    status: str,
    rows: list[dict[str, float]],
    validations: list[dict[str, float]],
    sheets: list[Sheet],
    notes: list[str],
    alive: bool,
) -> str:
    """HTML of the whole page, which loads itself again every `REFRESH_S` while the run is `alive`.

    `rows` are those of the log, `validations` those of validation under equal names.
    """
    state = "running" if alive else "ended"
    machine = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.machine.items())
    body = f"""<header><h1>{html.escape(facts.title)}</h1>
<p><span class="state {state}">{state}</span> {html.escape(status)}</p></header>
<section><h2>Curves</h2><div class="charts">{_charts(rows, validations)}</div></section>
<section><h2>Throughput</h2>{_throughput(rows)}</section>
<section><h2>Sample sheets</h2>{_sheets(sheets)}</section>
{_notes(notes)}
<section><h2>Machine</h2><dl>{machine}</dl></section>
<section><h2>Command</h2><pre>{html.escape(facts.command)}</pre></section>
<section><h2>Configuration</h2><pre>{html.escape(facts.config)}</pre></section>"""
    return document(title=facts.title, style=_STYLE, body=body, refresh_s=REFRESH_S if alive else None)


def _charts(rows: list[dict[str, float]], validations: list[dict[str, float]]) -> str:
    names = [name for name in (rows[-1] if rows else {}) if name not in ("step", "elapsed_s", *RATES)]
    charts = [
        chart(
            name,
            {
                "training": [(row["step"], row[name]) for row in rows if name in row],
                "validation": [(row["step"], row[name]) for row in validations if name in row],
            },
        )
        for name in names
    ]
    rates = [_rate_chart(name, rows) for name in RATES]
    return "".join([*charts, *rates]) or "<p>Nothing logged yet.</p>"


def _rate_chart(name: str, rows: list[dict[str, float]]) -> str:
    title, factor = _RATE_WORDS[name][0], 1
    if name in _SHARES:
        title, factor = f"{title}, %", 100
    return chart(title, {"": [(row["step"], factor * row[name]) for row in rows if name in row]})


def _throughput(rows: list[dict[str, float]]) -> str:
    measured = [row for row in rows if "step_s" in row]
    if not measured:
        return "<p>Nothing measured yet.</p>"
    body = "".join(
        f'<tr><th scope="row">{_RATE_WORDS[name][0]}<small>{_RATE_WORDS[name][1]}</small></th>'
        f"<td>{_rate(name, measured[-1][name])}</td>"
        f"<td>{_rate(name, float(np.median([row[name] for row in measured])))}</td></tr>"
        for name in RATES
    )
    return (
        f"<table><thead><tr><th></th><th>latest</th><th>median</th></tr></thead><tbody>{body}</tbody></table>"
    )


def _rate(name: str, value: float) -> str:
    return f"{value:.1%}" if name in _SHARES else number(value)


def _sheets(sheets: list[Sheet]) -> str:
    if not sheets:
        return "<p>None yet.</p>"
    figures = (
        f'<figure class="sheet"><figcaption>step {sheet.step:,}</figcaption><img alt="sample sheet at step '
        f'{sheet.step}" src="{jpeg_url(sheet.jpeg)}"></figure>'
        for sheet in reversed(sheets)
    )
    return f'<div class="sheets">{"".join(figures)}</div>'


def _notes(notes: list[str]) -> str:
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f"<section><h2>Notes</h2><ul>{items}</ul></section>" if notes else ""

"""Quantisation errors of layers while a world is played."""

from __future__ import annotations

from dataclasses import replace

from rich.table import Table

from gamegen.bench.workloads import PROMPT
from gamegen.controls import Control
from gamegen.engine.engine import EngineConfig, WorldEngine
from gamegen.engine.variants import Variant
from gamegen.models.precision import MIN_SQNR_DB, LayerError, Precision, layer_errors
from gamegen.models.text import TextEncoder

KEYS = ("w", "left", "space", "d")
CHUNKS = 8


def played_layer_errors(
    variant: Variant, precision: Precision, text_encoder: TextEncoder
) -> list[LayerError]:
    """Quantisation errors over the first chunks of a world, the worst layer first.

    Raises ValueError for a precision that the device lacks.
    """
    model = replace(variant, compiled=False, precision="float32").load()
    states = text_encoder.encode([PROMPT])[0]

    def play() -> None:
        engine = WorldEngine(model, EngineConfig(max_sessions=1))
        engine.open("layers", states, seed=0)
        for i in range(CHUNKS):
            engine.step({"layers": Control({KEYS[i % len(KEYS)]}).operations()})

    return sorted(layer_errors(model, precision, play), key=lambda error: error.sqnr_db)


def layer_table(errors: list[LayerError], precision: Precision) -> Table:
    """Table of layer errors."""
    shown = Table(title=f"Layers in {precision}: signal to quantisation noise, over {CHUNKS} chunks of play")
    for name, justify in (
        ("layer", "left"),
        ("dB", "right"),
        (f"stays where under {MIN_SQNR_DB:.0f} dB", "left"),
    ):
        shown.add_column(name, justify=justify)  # type: ignore[arg-type]
    for error in errors:
        shown.add_row(error.name, f"{error.sqnr_db:.1f}", "stays" if error.is_kept else "")
    return shown

"""Table of model sizes, printed by `gamegen models sizes`."""

from __future__ import annotations

from rich.table import Table

from gamegen.models.configs import model_names, named_config
from gamegen.models.counts import Latents, chunk_flops, forward_flops, parameter_counts
from gamegen.models.text import MAX_TOKENS

CLIP_FRAMES = 102
PAPER = {"width": "1152", "layers": "28", "heads": "16", "picture": "1280x720"}
"""Sizes of MSDiT that the GameGen-X paper gives; it has no counts of weights or operations."""


def sizes_table() -> Table:
    """Table with one column per named config, and one for the GameGen-X paper."""
    table = Table(
        title="Model sizes",
        caption="M is a million weights. A chunk is 4 streamed frames: its denoising passes against full caches, the "
        f"pass that commits it, the small decoder. A clip is {CLIP_FRAMES} frames of training, forward and back, both "
        f"at the picture size with {MAX_TOKENS} text tokens. A multiplication and an addition are two operations.",
    )
    columns = {name: _figures(name) for name in model_names()} | {"the paper": PAPER}
    table.add_column("config")
    for name in columns:
        table.add_column(name, justify="right")
    for figure in next(iter(columns.values())):
        table.add_row(figure, *(column.get(figure, "-") for column in columns.values()))
    return table


def _figures(name: str) -> dict[str, str]:
    config = named_config(name)
    foundation = config.foundation
    assert foundation is not None
    counts = parameter_counts(config)
    # The backward pass of a matrix product is two products of its size.
    clip = 3 * forward_flops(config, Latents.of_clip(config, CLIP_FRAMES)).total
    return {
        "width": str(foundation.width),
        "layers": str(foundation.num_layers),
        "heads": str(foundation.num_heads),
        "picture": f"{config.width}x{config.height}",
        "VAE, M": f"{counts['vae'] / 1e6:,.1f}",
        "MSDiT, M": f"{counts['foundation'] / 1e6:,.1f}",
        "InstructNet, M": f"{counts['instructnet'] / 1e6:,.1f}",
        "all, M": f"{sum(counts.values()) / 1e6:,.1f}",
        "GFLOP a chunk": f"{chunk_flops(config) / 1e9:,.1f}",
        "TFLOP a clip": f"{clip / 1e12:,.2f}",
    }

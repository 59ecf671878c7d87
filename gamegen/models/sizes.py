"""The table of model sizes that `gamegen models sizes` prints."""

from __future__ import annotations

from rich.table import Table

from gamegen.models.configs import model_names, named_config
from gamegen.models.counts import Latents, chunk_flops, forward_flops, parameter_counts
from gamegen.models.text import MAX_TOKENS

CLIP_FRAMES = 102
PAPER = ("GameGen-X (paper)", "1152", "28", "16")
"""What Che et al. 2024 state of MSDiT; they give no number of weights or operations to set beside ours."""


def sizes_table() -> Table:
    """One row a named config, and the GameGen-X paper's figures."""
    table = Table(
        title="Model sizes",
        caption=f"A chunk is 4 frames of play: its denoising passes, the commit and the small decoder. A clip is "
        f"{CLIP_FRAMES} frames forward and back. Both at the config's picture size with {MAX_TOKENS} text tokens; "
        "a multiplication and an addition are two operations.",
    )
    table.add_column("config")
    for name in (
        *("width", "layers", "heads", "picture", "VAE M", "MSDiT M", "InstructNet M", "all M"),
        *("GFLOP a streamed chunk", "TFLOP a training clip"),
    ):
        table.add_column(name, justify="right")
    for name in model_names():
        table.add_row(name, *_row(name))
    table.add_row(*PAPER, "up to 1280x720", *["-"] * 6)
    return table


def _row(name: str) -> list[str]:
    config = named_config(name)
    foundation = config.foundation
    assert foundation is not None
    counts = parameter_counts(config)
    # The gradient of a product is two more of its size.
    clip = 3 * forward_flops(config, Latents.of_clip(config, CLIP_FRAMES)).total
    return [
        str(foundation.width),
        str(foundation.num_layers),
        str(foundation.num_heads),
        f"{config.width}x{config.height}",
        *(f"{counts[part] / 1e6:,.1f}" for part in ("vae", "foundation", "instructnet")),
        f"{sum(counts.values()) / 1e6:,.1f}",
        f"{chunk_flops(config) / 1e9:,.1f}",
        f"{clip / 1e12:,.2f}",
    ]

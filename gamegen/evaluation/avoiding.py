"""Effect of a negative prompt: probability, by the scene classifiers, of what it names, without and with it.

python -m gamegen.evaluation.avoiding "snowy plain at noon" snow
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import typer
from rich.progress import track

from gamegen.evaluation.bootstrap import Estimate, estimate
from gamegen.evaluation.scenes import WINDOW_FRAMES, SceneHeads, describe, load_scenes
from gamegen.footage.captions import PLACE_WORDS, WEATHER_WORDS
from gamegen.pipeline import VideoPipeline
from gamegen.process.command import run_command


@dataclass(frozen=True, kw_only=True)
class Avoided:
    """Probability, by the classifiers, that a clip shows what the negative prompt names; 95 % intervals over seeds.

    `without` is that of clips without a negative prompt, `change` the difference of the same seeds.
    """

    without: Estimate
    with_negative: Estimate
    change: Estimate

    def __str__(self) -> str:
        parts = (("without", self.without), ("with", self.with_negative), ("change", self.change))
        return ", ".join(f"{name} {e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for name, e in parts)


def measure_avoiding(
    pipeline: VideoPipeline,
    heads: SceneHeads,
    prompt: str,
    word: str,
    seeds: Iterable[int],
    guidance_scale: float | None = None,
    num_frames: int = 16,
) -> Avoided:
    """Draws a clip of each seed with and without `word` as negative prompt; raises ValueError for an unknown word."""
    shares = []
    for seed in seeds:
        plain = pipeline.generate(prompt, num_frames=num_frames, seed=seed)
        avoiding = pipeline.generate(
            prompt,
            num_frames=num_frames,
            seed=seed,
            negative_prompt=word,
            guidance_scale=guidance_scale,
        )
        shares.append([share_of(heads, frames[-WINDOW_FRAMES:], word) for frames in (plain, avoiding)])
    shown = np.array(shares).reshape(-1, 2)
    without, with_negative, change = (
        _mean(values) for values in (shown[:, 0], shown[:, 1], shown[:, 1] - shown[:, 0])
    )
    return Avoided(without=without, with_negative=with_negative, change=change)


def _mean(values: np.ndarray) -> Estimate:
    return estimate(lambda units: float(values[units].mean()), len(values))


def share_of(heads: SceneHeads, window: np.ndarray, word: str) -> float:
    """Probability that frames uint8 `(T, H, W, 3)` show a place or a weather that `word` is used of in captions."""
    told, absent, is_known = heads.probabilities(describe(window)[None]), 1.0, False
    for attribute, words in (("biome", PLACE_WORDS), ("weather", WEATHER_WORDS)):
        meant = [word in " ".join((value, *words.get(value, ()))) for value in heads.labels[attribute]]
        is_known = is_known or any(meant)
        absent *= 1 - float(told[attribute][0][meant].sum())
    if not is_known:
        raise ValueError(
            f"no caption of a place or a weather says {word!r}: name one, such as snow or desert"
        )
    return 1 - absent


app = typer.Typer(help="Negative prompts.")


@app.command()
def avoid(
    prompt: Annotated[str, typer.Argument(help="what the world looks like")],
    word: Annotated[str, typer.Argument(help="what is not to be seen: a place or a weather")],
    seeds: Annotated[int, typer.Option(min=1, help="clips with it, and as many without")] = 32,
    guidance: Annotated[float | None, typer.Option(help="guidance scale; by default that of orders")] = None,
    model: Annotated[str, typer.Option(help="a checkpoint, or one with changes")] = "nano",
) -> None:
    """Prints how much of what a negative prompt names the classifiers see, without and with it.

    Example: python -m gamegen.evaluation.avoiding "snowy plain at noon" snow --seeds 32
    """
    heads, _ = load_scenes()
    pipeline = VideoPipeline.load(model)
    print(measure_avoiding(pipeline, heads, prompt, word, track(range(seeds), transient=True), guidance))


if __name__ == "__main__":
    run_command(app)

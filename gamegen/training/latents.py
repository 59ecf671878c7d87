"""Windows of latents, with the words and keys that go with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gamegen.curation.encoded import EncodedClip
from gamegen.models.checkpoint import ModelConfig
from gamegen.models.instructnet import Controls
from gamegen.models.msdit import Text
from gamegen.models.text import TextStates
from gamegen.training.config import FlowLossConfig
from gamegen.training.data import Row, WindowKind
from gamegen.training.plan import Sample


@dataclass(frozen=True)
class LatentBatch:
    """Windows of latents, normalised, with what came before them.

    `latents` and `previous` `(B, T, C, h, w)`: `previous[:, i]` is the latent before `latents[:, i]`;
    `starts` `(B,)` is true where the window begins its clip, so that `previous[:, 0]` means nothing.
    `prompt` describes the scene the window shows; `first_prompt` the scene before the instruction in force, which
    is what a player's prompt says by then.
    """

    latents: Tensor
    previous: Tensor
    starts: Tensor
    prompt: Text
    first_prompt: Text
    controls: Controls

    def to(self, device: torch.device) -> LatentBatch:
        """The same on another device."""
        return LatentBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class LatentWindow:
    """One row of a `LatentBatch`, not yet normalised; None is an instruction never given."""

    latents: Tensor
    previous: Tensor
    starts: bool
    operations: Tensor
    prompt: TextStates
    first_prompt: TextStates
    instruction: TextStates | None
    active: Tensor
    video: Tensor | None


class LatentWindows(WindowKind):
    """Windows of encoded clips; `flow.transition_windows` of them show an instruction taking effect,
    `flow.still_windows` a moment without keys, both where the clip has one.

    A window of one latent is an image: it counts as a start wherever it is from.
    """

    length_column = "num_chunks"

    def __init__(self, flow: FlowLossConfig, model: ModelConfig) -> None:
        self.flow = flow
        channels = model.vae.latent_channels
        self.mean_C = torch.tensor(model.latent_mean or (0.0,) * channels)[:, None, None]
        self.std_C = torch.tensor(model.latent_std or (1.0,) * channels)[:, None, None]

    def prepare(self, row: Row) -> EncodedClip:
        return EncodedClip.from_row(row)

    def cut(self, clip: EncodedClip, sample: Sample, num_latents: int) -> LatentWindow:
        rng = sample.generator()
        return _window(clip, num_latents, self._start(clip, sample.slot, num_latents, rng), rng)

    def _start(self, clip: EncodedClip, slot: int, window: int, rng: np.random.Generator) -> int:
        last = clip.num_chunks - window
        kind = rng.random()
        moments: list[int] = []
        if kind < self.flow.transition_windows:
            moments = [instruction.chunk for instruction in clip.instructions]
        elif kind < self.flow.transition_windows + self.flow.still_windows:
            moments = (clip.operations == 0).flatten(1).all(1).nonzero().flatten().tolist()
        if moments:
            return int(np.clip(moments[rng.integers(len(moments))] - rng.integers(window), 0, last))
        return min(slot * window + int(rng.integers(window)), last)

    def collate(self, windows: list[LatentWindow]) -> LatentBatch:
        width = windows[0].prompt.tokens.shape[1]
        text = lambda states: Text.stack([s and (s.tokens, s.pooled) for s in states], width)  # noqa: E731
        controls = Controls(
            torch.stack([window.operations for window in windows]),
            torch.ones(len(windows), len(windows[0].latents), dtype=torch.bool),
            text([window.instruction for window in windows]),
            torch.stack([window.active for window in windows]),
            *self._videos(windows),
        )
        return LatentBatch(
            self._normalise(torch.stack([window.latents for window in windows])),
            self._normalise(torch.stack([window.previous for window in windows])),
            torch.tensor([window.starts for window in windows]),
            text([window.prompt for window in windows]),
            text([window.first_prompt for window in windows]),
            controls,
        )

    def _videos(self, windows: list[LatentWindow]) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Video prompts and which windows have one; nothing where none has."""
        has_video = torch.tensor([window.video is not None for window in windows])
        if not has_video.any():
            return None, None
        videos = [torch.zeros_like(w.latents) if w.video is None else w.video for w in windows]
        return self._normalise(torch.stack(videos)), has_video

    def _normalise(self, latents: Tensor) -> Tensor:
        return (latents - self.mean_C) / self.std_C


def _window(clip: EncodedClip, window: int, start: int, rng: np.random.Generator) -> LatentWindow:
    stop = start + window
    latents = clip.latents[start:stop].float()
    before = clip.latents[max(start - 1, 0)][None].float()
    said = [i for i in clip.instructions if i.chunk < stop]
    instruction = said[-1] if said else None
    begins = instruction.chunk if instruction else clip.num_chunks
    # A window across a change is described by what it turns into; without the instruction its text is dropped.
    scene = [segment for segment in clip.segments if segment.chunk < stop][-1]
    prompts = clip.segments[0].prompts
    videos = clip.video_prompts
    return LatentWindow(
        latents,
        torch.cat([before, latents[:-1]]),
        start == 0 or window == 1,
        clip.operations[start:stop].float(),
        scene.prompts[rng.integers(len(scene.prompts))],
        prompts[rng.integers(len(prompts))],
        instruction.states if instruction else None,
        (torch.arange(start, stop) >= begins).float(),
        videos[rng.integers(len(videos))][start:stop].float() if videos else None,
    )

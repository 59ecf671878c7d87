"""Windows of latents with their prompts, instructions, keys and video prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gamegen.curation.encoded_clip import EncodedClip
from gamegen.models.instructnet import ControlInputs
from gamegen.models.model import ModelConfig
from gamegen.models.motion_compensation import PAST_CHUNKS
from gamegen.models.network_inputs import Text
from gamegen.models.text import TextStates
from gamegen.training.feed import Row, WindowDataset
from gamegen.training.window_plan import Sample


class WindowMotion(NamedTuple):
    """What motion compensation knows of windows.

    `compensated` `(B, T, C, h, w)`: the motion-compensated latent of each latent, and `confidence` `(B, T, 1, h, w)`.
    `carried`, like `compensated`, are those of frames that were moved for longer (`carry_stream`), the same where a
    clip has none. To compute others, `past_operations` `(B, PAST_CHUNKS, 4, O)` of the chunks before the window.
    Latents are normalised in a batch.
    """

    compensated: Tensor
    confidence: Tensor
    carried: Tensor
    past_operations: Tensor

    def to(self, device: torch.device) -> WindowMotion:
        """A copy on another device."""
        return WindowMotion(*(tensor.to(device) for tensor in self))


@dataclass(frozen=True, kw_only=True)
class LatentBatch:
    """A batch of windows of latents, normalised, with the latent before each and their conditioning.

    `latents` and `previous` `(B, T, C, h, w)`: `previous[:, i]` is the latent before `latents[:, i]`;
    `starts` `(B,)` is true where the window begins its clip, so that `previous[:, 0]` means nothing.
    `prompt` describes the scene the window shows; `first_prompt` the scene before the instruction in force, which
    is what a player's prompt says by then. `motion` is for models with motion compensation, None for others.
    """

    latents: Tensor
    previous: Tensor
    starts: Tensor
    prompt: Text
    first_prompt: Text
    controls: ControlInputs
    motion: WindowMotion | None = None

    @property
    def given(self) -> tuple[Tensor, Tensor | None]:
        """What the networks are given beside each noisy latent, like `latents`, and its confidence."""
        return (self.previous, None) if self.motion is None else self.motion[:2]

    def to(self, device: torch.device) -> Self:
        """The batch on another device."""
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        moved: dict[str, Any] = {name: part.to(device) for name, part in parts.items() if part is not None}
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class LatentWindow:
    """One row of a `LatentBatch`, not yet normalised; `instruction` is None where none is given."""

    latents: Tensor
    previous: Tensor
    starts: bool
    operations: Tensor
    prompt: TextStates
    first_prompt: TextStates
    instruction: TextStates | None
    active: Tensor
    video: Tensor | None
    motion: WindowMotion | None


class LatentWindows(WindowDataset):
    """Windows of encoded clips.

    A share `transition_windows` of them shows an instruction taking effect, a share `still_windows` a moment without
    keys, both where the clip has one. A window of one latent is an image: it counts as a start wherever it is from.
    """

    length_column = "num_chunks"

    def __init__(self, model: ModelConfig, *, transition_windows: float, still_windows: float) -> None:
        self.transition_windows = transition_windows
        self.still_windows = still_windows
        self.needs_motion = model.foundation is not None and model.foundation.motion_compensation
        channels = model.vae.latent_channels
        self.mean_C = torch.tensor(model.latent_mean or (0.0,) * channels)[:, None, None]
        self.std_C = torch.tensor(model.latent_std or (1.0,) * channels)[:, None, None]

    def prepare(self, row: Row) -> EncodedClip:
        return EncodedClip.from_row(row)

    def cut(self, clip: EncodedClip, sample: Sample, num_latents: int) -> LatentWindow:
        return self.cut_at(clip, sample, num_latents)[0]

    def cut_at(self, clip: EncodedClip, sample: Sample, num_latents: int) -> tuple[LatentWindow, int]:
        """A window, and the number of its first chunk in the clip."""
        rng = sample.generator()
        start = self._start(clip, sample.slot, num_latents, rng)
        motion = _motion(clip, start, num_latents) if self.needs_motion else None
        return _window(clip, num_latents, start, rng, motion), start

    def _start(self, clip: EncodedClip, slot: int, window: int, rng: np.random.Generator) -> int:
        last = clip.num_chunks - window
        share = rng.random()
        moments: list[int] = []
        if share < self.transition_windows:
            moments = [instruction.chunk for instruction in clip.instructions]
        elif share < self.transition_windows + self.still_windows:
            moments = (clip.operations == 0).flatten(1).all(1).nonzero().flatten().tolist()
        if moments:
            return int(np.clip(moments[rng.integers(len(moments))] - rng.integers(window), 0, last))
        return min(slot * window + int(rng.integers(window)), last)

    def collate(self, windows: list[LatentWindow]) -> LatentBatch:
        width = windows[0].prompt.tokens.shape[1]
        text = lambda states: Text.stack([s and (s.tokens, s.pooled) for s in states], width)  # noqa: E731
        video, has_video = self._videos(windows)
        controls = ControlInputs(
            operations=torch.stack([window.operations for window in windows]),
            has_operations=torch.ones(len(windows), len(windows[0].latents), dtype=torch.bool),
            instruction=text([window.instruction for window in windows]),
            instruction_active=torch.stack([window.active for window in windows]),
            video=video,
            has_video=has_video,
        )
        return LatentBatch(
            latents=self._normalise(torch.stack([window.latents for window in windows])),
            previous=self._normalise(torch.stack([window.previous for window in windows])),
            starts=torch.tensor([window.starts for window in windows]),
            prompt=text([window.prompt for window in windows]),
            first_prompt=text([window.first_prompt for window in windows]),
            controls=controls,
            motion=self._motion(windows),
        )

    def _motion(self, windows: list[LatentWindow]) -> WindowMotion | None:
        parts = [window.motion for window in windows if window.motion is not None]
        if not parts:
            return None
        whole = WindowMotion(*(torch.stack(part) for part in zip(*parts, strict=True)))
        return whole._replace(
            compensated=self._normalise(whole.compensated), carried=self._normalise(whole.carried)
        )

    def _videos(self, windows: list[LatentWindow]) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Video prompts and a mask of the windows that have one; (None, None) where none has."""
        has_video = torch.tensor([window.video is not None for window in windows])
        if not has_video.any():
            return None, None
        videos = [torch.zeros_like(w.latents) if w.video is None else w.video for w in windows]
        return self._normalise(torch.stack(videos)), has_video

    def _normalise(self, latents: Tensor) -> Tensor:
        return (latents - self.mean_C) / self.std_C


def _motion(clip: EncodedClip, start: int, window: int) -> WindowMotion:
    """The motion of a window; raises ValueError for a clip that was encoded without a motion network."""
    if clip.compensated is None or clip.confidence is None:
        raise ValueError(
            f"{clip.clip_id} was encoded without a motion network: "
            "encode the clips with the checkpoint that the run begins with (gamegen encode --vae)"
        )
    past = F.pad(clip.operations, (0, 0, 0, 0, PAST_CHUNKS, 0))[start : start + PAST_CHUNKS]
    stop = start + window
    carried = clip.compensated if clip.carried is None else clip.carried
    return WindowMotion(
        compensated=clip.compensated[start:stop].float(),
        confidence=clip.confidence[start:stop].float(),
        carried=carried[start:stop].float(),
        past_operations=past.float(),
    )


def _window(
    clip: EncodedClip, window: int, start: int, rng: np.random.Generator, motion: WindowMotion | None
) -> LatentWindow:
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
        latents=latents,
        previous=torch.cat([before, latents[:-1]]),
        starts=start == 0 or window == 1,
        operations=clip.operations[start:stop].float(),
        prompt=scene.prompts[rng.integers(len(scene.prompts))],
        first_prompt=prompts[rng.integers(len(prompts))],
        instruction=instruction.states if instruction else None,
        active=(torch.arange(start, stop) >= begins).float(),
        video=videos[rng.integers(len(videos))][start:stop].float() if videos else None,
        motion=motion,
    )

"""What the sessions of a batch are drawn from, as the networks take it.

The same for all denoising steps of a chunk: what comes again is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gamegen.flow import add_noise, counter_noise
from gamegen.models.checkpoint import Model
from gamegen.models.frame_pass import FrameInputs
from gamegen.models.instructnet import Controls
from gamegen.models.msdit import Previous, Text
from gamegen.models.text import TextStates
from gamegen.session import Session, Underway
from gamegen.snapshot import Steering


@dataclass(frozen=True)
class BatchInputs:
    """What a batch is `told`, and what guidance leads away from, None where there is no guidance."""

    told: FrameInputs
    untold: FrameInputs | None


class InputStacker:
    """Stacks sessions to batches; what it made of the last few, at most `kept`, it does not make again.

    Prompts are padded to `text_length` tokens at least.
    """

    def __init__(
        self, model: Model, latent_shape: tuple[int, int, int], text_length: int = 1, kept: int = 4
    ) -> None:
        assert model.foundation is not None
        self._model, self._latent_shape = model, latent_shape
        self._text_width, self._text_length = model.foundation.config.text_width, text_length
        self._texts, self._batches = _Kept(kept), _Kept(kept)

    def of_chunks(self, sessions: Sequence[Session], chunks: Sequence[Underway]) -> BatchInputs:
        """For the next step of chunks on their way; one `SamplingConfig` counts for all sessions."""
        key = tuple(chunk.number for chunk in chunks)
        return self._batches.get(key, lambda: self.stacked(sessions, [chunk.steering for chunk in chunks]))

    def noise(self, sessions: Sequence[Session], purposes: Sequence[str]) -> Tensor:
        """Noise `(B, 1, C, h, w)` for the next chunk of each session, each for its purpose."""
        noise = [
            counter_noise(session.seed, session.version, purpose, self._latent_shape)
            for session, purpose in zip(sessions, purposes, strict=True)
        ]
        return torch.stack(noise)[:, None].to(self._model.device)

    def stacked(self, sessions: Sequence[Session], steering: Sequence[Steering]) -> BatchInputs:
        """For chunks under that steering."""
        device, B = self._model.device, len(sessions)
        controls = Controls(
            torch.from_numpy(np.stack([s.operations for s in steering])).float()[:, None].to(device),
            torch.ones(B, 1, dtype=torch.bool, device=device),
            self._text([s.words.heard() for s in steering]),
            torch.tensor([[s.words.gate] for s in steering], device=device),
            *self._videos([s.video for s in steering]),
        )
        prompt = self._text([s.prompt for s in sessions], self._text_length)
        told = FrameInputs(prompt, controls, self._previous(sessions))
        if sessions[0].manner.sampling.guidance_scale == 1:
            return BatchInputs(told, None)
        return BatchInputs(
            told, replace(told, prompt=self._unsaid(sessions, prompt), controls=controls.dropped())
        )

    def _unsaid(self, sessions: Sequence[Session], prompt: Text) -> Text:
        negatives = [session.manner.negative for session in sessions]
        if any(negative is not None for negative in negatives):
            return self._text(negatives, self._text_length)
        return prompt.dropped(torch.ones(len(sessions), dtype=torch.bool, device=prompt.mask.device))

    def _previous(self, sessions: Sequence[Session]) -> Previous:
        device, level = self._model.device, sessions[0].manner.sampling.context_level
        has_previous = torch.tensor([[bool(s.chunks)] for s in sessions], device=device)
        zero = torch.zeros(self._latent_shape, dtype=torch.float16)
        latents = torch.stack([s.chunks[-1].latent if s.chunks else zero for s in sessions])
        previous = latents.float().to(device)[:, None]
        noise = self.noise(sessions, ["previous"] * len(sessions))
        noisy = add_noise(previous, noise, torch.full((len(sessions), 1), level, device=device))
        return Previous(previous, noisy, torch.where(has_previous, level, -1.0))

    def _videos(self, videos: list[Tensor | None]) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Latents of video prompts `(B, 1, C, h, w)` and whose there are `(B,)`; nothing where nobody has one."""
        if not any(video is not None for video in videos):
            return None, None
        has_video = torch.tensor([video is not None for video in videos], device=self._model.device)
        zero = torch.zeros(self._latent_shape, dtype=torch.float16)
        latents = torch.stack([zero if video is None else video for video in videos])
        return latents.float()[:, None].to(self._model.device), has_video

    def _text(self, states: Sequence[TextStates | None], length: int = 1) -> Text:
        """Texts of a batch, whose memory keeps what networks have read of them."""
        pairs = [None if text is None else (text.tokens, text.pooled) for text in states]
        # The states are kept as well, so that no other objects take their identity.
        text, _ = self._texts.get(
            (length, *map(id, states)),
            lambda: (Text.stack(pairs, self._text_width, length).to(self._model.device), states),
        )
        return text


class _Kept:
    """The last few results."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._results: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def get(self, key: tuple[int, ...], make: Callable[[], Any]) -> Any:
        """What was made for that key before, or what `make` returns."""
        if key not in self._results:
            self._results[key] = make()
        self._results.move_to_end(key)
        while len(self._results) > self._most:
            self._results.popitem(last=False)
        return self._results[key]

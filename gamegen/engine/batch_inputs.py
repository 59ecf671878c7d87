"""Network inputs of a batch of sessions, cached because all denoising steps of a chunk share them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cachetools import LRUCache
from torch import Tensor

from gamegen.controls import OPERATION_SIZE
from gamegen.engine.conditioning import Conditioning
from gamegen.engine.frame_pass import FrameInputs
from gamegen.engine.latent_decoder import last_shown
from gamegen.engine.motion_prediction import build_motion_prediction
from gamegen.engine.state import ChunkReference, DenoisingState, Session
from gamegen.flow import add_noise, counter_noise
from gamegen.models.exemplar_views import Ahead, Beside, complete, fill_beside
from gamegen.models.exemplars import ExemplarQuery
from gamegen.models.folding import to_pixels
from gamegen.models.instructnet import ControlInputs
from gamegen.models.layered_warp import Layers, split_layers
from gamegen.models.model import Model
from gamegen.models.motion import NUM_OPERATIONS, PredictedMotion
from gamegen.models.motion_compensation import Compensated, as_reference, no_latent, predict_motion
from gamegen.models.network_inputs import Previous, Text
from gamegen.models.streaming_decoder import Reference
from gamegen.models.text import TextStates
from gamegen.models.view_memory import RecalledView, ViewMemory

_SURE, _SURE_SLOPE = -0.5, 4.0
"""Confidence at which half of `SamplingConfig.keep` is kept, and the slope of the sigmoid about it."""
_FRONT_SHARE = 0.7
"""Factor of the kept share at held tools and avatars, whose edges the motion network does not know well."""


@dataclass(frozen=True)
class BatchInputs:
    """Conditional inputs of a batch, and unconditional ones for classifier-free guidance, None without guidance."""

    cond: FrameInputs
    uncond: FrameInputs | None


class InputStacker:
    """Stacks the conditions of sessions into batches, and caches the last `cache_size` batches.

    Prompts are padded to `text_length` tokens at least. All sessions of a batch share one `SamplingConfig`.
    """

    def __init__(
        self,
        model: Model,
        latent_shape: tuple[int, int, int],
        *,
        text_length: int = 1,
        cache_size: int = 4,
    ) -> None:
        assert model.foundation is not None
        self._model = model
        self._latent_shape = latent_shape
        self._text_width = model.foundation.config.text_width
        self._text_length = text_length
        self._compensates = model.foundation.config.motion_compensation
        self._predict_motion = build_motion_prediction(model, latent_shape) if self._compensates else None
        self._no_latent = no_latent(model)
        self._texts: LRUCache[tuple[int, ...], Any] = LRUCache(cache_size)
        self._batches: LRUCache[tuple[int, ...], Any] = LRUCache(cache_size)

    def of_chunks(self, sessions: Sequence[Session], chunks: Sequence[DenoisingState]) -> BatchInputs:
        """Inputs for the next denoising step of `chunks`."""
        key = tuple(chunk.number for chunk in chunks)
        return _cached(
            self._batches, key, lambda: self.stacked(sessions, [chunk.conditioning for chunk in chunks])
        )

    def noise(self, sessions: Sequence[Session], purposes: Sequence[str]) -> Tensor:
        """Counter-based noise `(B, 1, C, h, w)` for the next chunk of each session, each for its purpose."""
        noise = [
            counter_noise(session.seed, session.version, purpose, self._latent_shape)
            for session, purpose in zip(sessions, purposes, strict=True)
        ]
        return torch.stack(noise)[:, None].to(self._model.device)

    def stacked(
        self,
        sessions: Sequence[Session],
        conditions: Sequence[Conditioning],
        compensated: Compensated | None = None,
    ) -> BatchInputs:
        """Inputs for the next chunk of each session under the given conditions.

        `compensated` are the motion-compensated latents of chunks that are known, normalised; None computes them.
        """
        controls = self._controls(conditions)
        prompt = self._text([s.prompt for s in sessions], self._text_length)
        cond = FrameInputs(prompt, controls, self._previous(sessions, conditions, compensated))
        if sessions[0].params.sampling.guidance_scale == 1:
            return BatchInputs(cond, None)
        uncond = replace(cond, prompt=self._negative(sessions, prompt), controls=controls.dropped())
        return BatchInputs(cond, uncond)

    def _controls(self, conditions: Sequence[Conditioning]) -> ControlInputs:
        device, B = self._model.device, len(conditions)
        operations = np.stack([c.operations for c in conditions])
        video, has_video = self._videos([c.video for c in conditions])
        return ControlInputs(
            operations=torch.from_numpy(operations).float()[:, None].to(device),
            has_operations=torch.ones(B, 1, dtype=torch.bool, device=device),
            instruction=self._text([c.instruction.blended() for c in conditions]),
            instruction_active=torch.tensor([[c.instruction.gate] for c in conditions], device=device),
            video=video,
            has_video=has_video,
        )

    def _negative(self, sessions: Sequence[Session], prompt: Text) -> Text:
        """The negative prompts, empty texts where there are none."""
        negatives = [session.params.negative for session in sessions]
        if any(negative is not None for negative in negatives):
            return self._text(negatives, self._text_length)
        return prompt.dropped(torch.ones(len(sessions), dtype=torch.bool, device=prompt.mask.device))

    def _previous(
        self,
        sessions: Sequence[Session],
        conditions: Sequence[Conditioning],
        compensated: Compensated | None,
    ) -> Previous:
        device, level = self._model.device, sessions[0].params.sampling.context_level
        has_previous = torch.tensor([[bool(s.chunks)] for s in sessions], device=device)
        if self._compensates:
            latent, confidence = compensated or self._compensated(sessions, conditions)
            given, trust = latent.float()[:, None], confidence.float()[:, None]
        else:
            given, trust = self._last_latents(sessions)[:, None], None
        noise = self.noise(sessions, ["previous"] * len(sessions))
        noisy = add_noise(given, noise, torch.full((len(sessions), 1), level, device=device))
        return Previous(given, noisy, torch.where(has_previous, level, -1.0), trust)

    def _compensated(self, sessions: Sequence[Session], conditions: Sequence[Conditioning]) -> Compensated:
        """Motion-compensated latents of each session's next chunk, normalised; zeros before a session's first chunk.

        Rounded to float16, so that a snapshot holds exactly what the run used.
        """
        device = self._model.device
        latent = torch.zeros(len(sessions), *self._latent_shape, dtype=torch.float16, device=device)
        confidence = torch.zeros_like(latent[:, :1])
        begun = [i for i, session in enumerate(sessions) if session.chunks]
        # One by one on a CPU, where rounding would depend on the other rows.
        for rows in [[i] for i in begun] if device.type == "cpu" else [begun] * bool(begun):
            found = self._references([sessions[i] for i in rows], [conditions[i] for i in rows])
            latent[rows] = self._model.normalise(found.latent.float()).half()
            confidence[rows] = found.confidence.half()
        return Compensated(latent, confidence)

    def _references(self, sessions: Sequence[Session], conditions: Sequence[Conditioning]) -> Reference:
        """The references of sessions' next chunks, which each session keeps, with what it recalls for its chunk."""
        model, pasts = self._model, [session.upto_last for session in sessions]
        done = [np.concatenate([p.operations, c.operations]) for p, c in zip(pasts, conditions, strict=True)]
        steps = np.stack(done)
        shown = last_shown(model, pasts)
        operations = torch.from_numpy(steps).float().to(model.device)
        predicted = predict_motion(model, shown, operations, self._predict_motion)
        memories = [session.memory for session in sessions] if model.recalls_views else []
        steady = [memory.moving_now(predicted.row(i)) for i, memory in enumerate(memories)]
        motion = predicted.with_moving(torch.stack(steady).to(predicted.moving)) if steady else predicted
        expected = [memory.expected_opacity(shown.shape[-2:]) for memory in memories]
        layers = split_layers(motion, torch.stack(expected) if expected else None)
        last = shown[:, 1].to(motion.flow.dtype)
        queries = [_query(session) for session in sessions]
        completions = self._completions(last, motion, layers, memories, queries)
        detail = torch.cat([each.residual for each in completions]) if completions else None
        frames = layers.move(last, detail)
        completed = last if detail is None else last + detail
        recalled = [
            memory.recall(frames[i], layers.row(i), motion.row(i)) for i, memory in enumerate(memories)
        ]
        filled = self._beside(frames, motion, layers, memories, recalled, queries)
        views = [
            [view for view in (first, second.view) if view is not None]
            for first, second in zip(recalled, filled, strict=True)
        ]
        found = as_reference(model, frames, motion, layers, views)
        for i, session in enumerate(sessions):
            memory = session.memory
            if memories:
                memory = memory.next(
                    to_pixels(completed[i]),
                    predicted.moving[i],
                    motion.row(i),
                    layers.row(i),
                    ahead=completions[i].ahead if completions else None,
                    beside=filled[i].beside,
                )
            kept = self._kept_share(found.confidence[i], layers.row(i), session, conditions[i], memory)
            reference = found.row(i)._replace(kept=kept[None].half().cpu())
            session.reference = ChunkReference(session.version, reference, memory)
        return found

    def _kept_share(
        self,
        confidence_1hw: Tensor,
        layers: Layers,
        session: Session,
        conditioning: Conditioning,
        memory: ViewMemory,
    ) -> Tensor:
        """`Reference.kept` of one row, `(1, h, w)`: up to `SamplingConfig.keep` where the moved frames are sure.

        What is drawn is a mean, and drawn again in each chunk it would be all that is left of what was recorded; what
        is only moved need not pass through the autoencoder. What is magnified becomes stripes that way, and is drawn
        the more. What an instruction or a video prompt changes, and worlds whose detail nothing renews, are as they are
        drawn.
        """
        is_changing = session.is_changing or conditioning.video is not None
        if self._model.exemplars is None or is_changing:
            return torch.zeros_like(confidence_1hw)
        share = torch.sigmoid((confidence_1hw - _SURE) * _SURE_SLOPE) * session.params.sampling.keep
        area = F.interpolate(layers.source_area()[:, None], share.shape[-2:], mode="area")[0]
        share = share * area.clamp(max=1).to(share).square()
        if memory.moving is None:
            return share
        moving = F.interpolate(memory.moving[None, None].to(share), share.shape[-2:], mode="area")[0]
        return share * (_FRONT_SHARE + (1 - _FRONT_SHARE) * moving)

    def _completions(
        self,
        last_BCHW: Tensor,
        motion: PredictedMotion,
        layers: Layers,
        memories: Sequence[ViewMemory],
        queries: Sequence[ExemplarQuery],
    ) -> list[Ahead]:
        """What exemplars add to the last frames; empty for a model without exemplars."""
        exemplars = self._model.exemplars
        if exemplars is None:
            return []
        return [
            complete(
                exemplars,
                last_BCHW[i : i + 1],
                layers.row(i),
                motion.row(i),
                memory,
                queries[i],
                self._depth_of,
            )
            for i, memory in enumerate(memories)
        ]

    def _beside(
        self,
        frames_BKCHW: Tensor,
        motion: PredictedMotion,
        layers: Layers,
        memories: Sequence[ViewMemory],
        recalled: Sequence[RecalledView | None],
        queries: Sequence[ExemplarQuery],
    ) -> list[Beside]:
        """What exemplars show of places that nothing else does; nothing for a model without exemplars."""
        exemplars = self._model.exemplars
        if exemplars is None:
            return [Beside(None, None)] * len(memories)
        return [
            fill_beside(
                exemplars,
                frames_BKCHW[i],
                layers.row(i),
                motion.row(i),
                memory,
                recalled[i],
                queries[i],
                self._depth_of,
            )
            for i, memory in enumerate(memories)
        ]

    def _depth_of(self, picture_1CHW: Tensor) -> Tensor:
        """Inverse depth of a picture that nothing is known about but itself, `(1, q, r)`."""
        shown = picture_1CHW[:, None].repeat(1, 2, 1, 1, 1).to(self._model.device)
        at_rest = torch.zeros(1, NUM_OPERATIONS, OPERATION_SIZE, device=self._model.device)
        return predict_motion(self._model, shown, at_rest, self._predict_motion).inverse_depth

    def _last_latents(self, sessions: Sequence[Session]) -> Tensor:
        """The last latent of each session, float32 `(B, C, h, w)`."""
        none = self._no_latent.expand(self._latent_shape)
        return torch.stack([s.chunks[-1].latent.to(none) if s.chunks else none for s in sessions])

    def _videos(self, videos: list[Tensor | None]) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Latents of video prompts `(B, 1, C, h, w)` and a bool mask `(B,)` of rows that have one; None without any."""
        if not any(video is not None for video in videos):
            return None, None
        has_video = torch.tensor([video is not None for video in videos], device=self._model.device)
        zero = torch.zeros(self._latent_shape, dtype=torch.float16)
        latents = torch.stack([zero if video is None else video for video in videos])
        return latents.float()[:, None].to(self._model.device), has_video

    def _text(self, states: Sequence[TextStates | None], length: int = 1) -> Text:
        """A batch of texts; the cached object also holds the keys and values that networks compute of it."""
        pairs = [None if text is None else (text.tokens, text.pooled) for text in states]
        # The states are cached as well, so that no other object gets their id while the entry lives.
        text, _ = _cached(
            self._texts,
            (length, *map(id, states)),
            lambda: (Text.stack(pairs, self._text_width, length).to(self._model.device), states),
        )
        return text


def _query(session: Session) -> ExemplarQuery:
    return ExemplarQuery(
        prompt=session.prompt,
        is_instructed=session.upcoming[0].gate > 0,
        is_changing=session.is_changing,
        seed=session.seed,
        number=session.version,
    )


def _cached(cache: LRUCache[tuple[int, ...], Any], key: tuple[int, ...], compute: Callable[[], Any]) -> Any:
    """The cached result of `key`; calls `compute` if there is none."""
    if key not in cache:
        cache[key] = compute()
    return cache[key]

"""Forward passes over batches of sessions: denoising steps, and deferred writes of finished chunks to the caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from gamegen.constants import SPATIAL_FACTOR
from gamegen.device import one_thread
from gamegen.engine.batch_inputs import InputStacker
from gamegen.engine.batching import Batch, padded
from gamegen.engine.frame_pass import (
    CompiledFramePass,
    DirectFramePass,
    FrameInputs,
    build_frame_pass,
)
from gamegen.engine.sampler import SolverStep, denoise_step
from gamegen.engine.snapshot import PastChunk
from gamegen.engine.state import Session
from gamegen.flow import add_noise
from gamegen.models.change_limit import limit_change
from gamegen.models.instructnet import temporal_attentions
from gamegen.models.kv_cache import KVCaches
from gamegen.models.model import Model
from gamegen.models.motion_compensation import PAST_CHUNKS, Compensated
from gamegen.models.msdit import PATCH
from gamegen.models.text import MAX_TOKENS


@dataclass(frozen=True, kw_only=True)
class _PendingCommit:
    """Finished latents at their noise level, whose keys and values are not yet in the caches of their slots."""

    inputs: FrameInputs
    slots: list[int]
    x_BTCHW: Tensor
    level_BT: Tensor


class BatchRunner:
    """Networks and KV caches of an engine: runs passes over the sessions of a batch, and opens or closes none.

    `rows` as in `EngineConfig`; `size` is (width, height) in pixels.
    """

    def __init__(self, model: Model, max_sessions: int, rows: int | None, size: tuple[int, int]) -> None:
        foundation, instructnet = model.foundation, model.instructnet
        assert foundation is not None and instructnet is not None
        self.rows = rows
        width, height = size
        self.latent_shape = (
            model.config.vae.latent_channels,
            height // SPATIAL_FACTOR,
            width // SPATIAL_FACTOR,
        )
        self.frame_pass: Callable[..., Tensor] = build_frame_pass(
            foundation, instructnet, size, model.may_compile, model.int8_layers
        )
        self.is_compiled = isinstance(self.frame_pass, CompiledFramePass)
        # No compiled graph has an input for video prompts, so chunks with one take this pass.
        self._video_pass = DirectFramePass(foundation, instructnet, size)
        self._device = model.device
        attentions = temporal_attentions(foundation, instructnet)
        num_tokens = self.latent_shape[1] * self.latent_shape[2] // PATCH**2
        self.caches = KVCaches([a.new_cache(max_sessions, num_tokens, foundation.dtype) for a in attentions])
        # Each temporal attention reaches a window further back, and the first chunk has the one before it as its input.
        # The motion network reads the operations of some.
        self.history = max(len(attentions) * (foundation.config.window - 1) + 1, PAST_CHUNKS)
        """Latents that the next chunk depends on, besides the anchors."""
        # Sessions of several batches may take their denoising steps in turns.
        num_batches = -(-max_sessions // (rows or max_sessions))
        self._inputs = InputStacker(
            model,
            self.latent_shape,
            text_length=MAX_TOKENS if (rows or 1) > 1 else 1,
            cache_size=4 * num_batches,
        )
        self._pending: list[_PendingCommit] = []

    def initial_noise(self, session: Session) -> Tensor:
        """Noise `(C, h, w)` from which the session's next chunk is denoised."""
        return self._inputs.noise([session], ["start"])[0, 0]

    def denoise(self, batch: Batch) -> Tensor:
        """Noisy latents `(B, C, h, w)` of all rows after their next denoising step."""
        inputs = self._inputs.of_chunks(batch.sessions, batch.chunks)
        self.caches.select(batch.slots)
        step = SolverStep.of(
            [(chunk.steps_done, chunk.num_steps) for chunk in batch.chunks],
            shift=batch.sampling.shift,
            guidance_scale=batch.sampling.guidance_scale,
            solver=batch.sampling.solver,
            device=self._device,
        )
        purposes = [f"step{chunk.steps_done}" for chunk in batch.chunks]
        x_BTCHW = denoise_step(
            cond=partial(self._velocity, inputs.cond),
            uncond=None if inputs.uncond is None else partial(self._velocity, inputs.uncond),
            x_BTCHW=torch.stack([chunk.x for chunk in batch.chunks])[:, None],
            step=step,
            noise=self._inputs.noise(batch.sessions, purposes) if step.needs_noise else None,
        )
        return x_BTCHW[:, 0]

    def _velocity(self, inputs: FrameInputs, x_BTCHW: Tensor, level_BT: Tensor) -> Tensor:
        """Velocity of the selected slots; stages their new keys and values in the caches."""
        frame_pass = self.frame_pass if inputs.controls.video is None else self._video_pass
        return frame_pass(x_BTCHW, level_BT, inputs, self.caches)

    def finish(self, batch: Batch) -> list[PastChunk]:
        """The chunks of all rows, which have taken all their steps, to be committed."""
        inputs = self._inputs.of_chunks(batch.sessions, batch.chunks).cond
        # Rounded to float16, so that a snapshot holds exactly what the run used.
        latents = self._kept(batch, inputs).half()
        self._add_pending(inputs, batch.sessions, latents)
        given = _given(inputs, len(latents))
        return [
            PastChunk(latent, chunk.conditioning, compensated)
            for latent, chunk, compensated in zip(latents.cpu(), batch.chunks, given, strict=True)
        ]

    def _kept(self, batch: Batch, inputs: FrameInputs) -> Tensor:
        """The drawn latents as they are shown, `(B, C, h, w)`.

        With `limits_change` they change no more than footage does, unless an instruction or a video prompt changes the
        world; motion-compensated latents are in their place as far as moved frames are shown.
        """
        drawn = torch.stack([chunk.x for chunk in batch.chunks])
        previous = inputs.previous
        if previous.confidence is None:
            return drawn
        given, shown = previous.latent[:, 0], drawn
        if batch.sampling.limits_change:
            limited = limit_change(drawn, given, previous.confidence[:, 0])
            is_free = [
                not session.chunks or session.is_changing or chunk.conditioning.video is not None
                for session, chunk in zip(batch.sessions, batch.chunks, strict=True)
            ]
            shown = torch.where(
                torch.tensor(is_free, device=drawn.device)[:, None, None, None], drawn, limited
            )
        share = torch.stack([_kept_share(session, drawn) for session in batch.sessions])
        return shown + share * (given - shown)

    def add_known(self, session: Session, chunk: PastChunk) -> PastChunk:
        """Adds a chunk of known latent after the session's last one, to be committed; returns it with its inputs."""
        sessions, chunks = padded([session], self.rows), padded([chunk], self.rows)
        compensated = None
        if chunk.compensated is not None:
            parts = (torch.stack([part] * len(sessions)).to(self._device) for part in chunk.compensated)
            compensated = Compensated(*parts)
        conditions = [known.conditioning for known in chunks]
        inputs = self._inputs.stacked(sessions, conditions, compensated).cond
        latents = torch.stack([known.latent for known in chunks]).to(self._device)
        self._add_pending(inputs, sessions, latents)
        return replace(chunk, compensated=_given(inputs, 1)[0])

    def varied(self, session: Session, chunk: PastChunk) -> Tensor:
        """The latent of a known chunk, `(C, h, w)` float16 on the CPU, noised by the seed and denoised in one step.

        Noised to the sampling's `start_level` alone, it keeps its layout and changes in detail (Meng et al. 2022,
        "SDEdit"). The session's earlier chunks must be committed; the caches do not change.
        """
        sampling = session.params.sampling
        sessions = padded([session], self.rows)
        inputs = self._inputs.stacked(sessions, [chunk.conditioning] * len(sessions))
        level_BT = torch.full((len(sessions), 1), sampling.start_level, device=self._device)
        step = SolverStep(
            level_BT=level_BT,
            next_level_BT=torch.zeros_like(level_BT),
            change_BT=-level_BT,
            guidance_scale=sampling.guidance_scale,
            solver="euler",
        )
        latents = torch.stack([chunk.latent] * len(sessions)).to(self._device)
        noise = self._inputs.noise(sessions, ["vary"] * len(sessions))
        self.caches.select([each.slot for each in sessions])
        with one_thread(self.is_compiled):
            x_BTCHW = denoise_step(
                cond=partial(self._velocity, inputs.cond),
                uncond=None if inputs.uncond is None else partial(self._velocity, inputs.uncond),
                x_BTCHW=add_noise(latents.float()[:, None], noise, level_BT),
                step=step,
            )
        return x_BTCHW[0, 0].half().cpu()

    def _add_pending(self, inputs: FrameInputs, sessions: Sequence[Session], latents: Tensor) -> None:
        # Temporal attention reads the past at this noise level.
        level = sessions[0].params.sampling.history_level
        level_BT = torch.full((len(sessions), 1), level, device=self._device)
        noise = self._inputs.noise(sessions, ["commit"] * len(sessions))
        pending = _PendingCommit(
            inputs=inputs,
            slots=[session.slot for session in sessions],
            x_BTCHW=add_noise(latents.float()[:, None], noise, level_BT),
            level_BT=level_BT,
        )
        self._pending.append(pending)

    def commit(self, on_failure: Callable[[list[int]], None]) -> None:
        """Writes keys and values of the chunks finished since the last commit into the caches.

        If a pass fails, `on_failure` gets the slots whose caches now lack a chunk, and the exception is raised.
        """
        pending, self._pending = self._pending, []
        with one_thread(self.is_compiled):
            for chunks in pending:
                self.caches.select(chunks.slots)
                try:
                    self._velocity(chunks.inputs, chunks.x_BTCHW, chunks.level_BT)
                except Exception:
                    on_failure(chunks.slots)
                    raise
                self.caches.commit()

    def discard_pending(self, slot: int) -> None:
        """Drops pending commits that concern this slot alone."""
        self._pending = [pending for pending in self._pending if {*pending.slots} != {slot}]


def _kept_share(session: Session, drawn_BCHW: Tensor) -> Tensor:
    """`Reference.kept` of the chunk that a session draws, `(1, h, w)`; zeros if it has no reference."""
    known = session.reference
    if known is None or known.version != session.version or known.reference is None:
        return torch.zeros_like(drawn_BCHW[0, :1])
    return known.reference.kept[0].to(drawn_BCHW)


def _given(inputs: FrameInputs, num_rows: int) -> list[Compensated | None]:
    """The motion-compensated latents of the first rows, float16 on the CPU; None for networks that are given none."""
    previous = inputs.previous
    if previous.confidence is None:
        return [None] * num_rows
    latents, confidences = previous.latent[:, 0].half().cpu(), previous.confidence[:, 0].half().cpu()
    return [Compensated(latents[i].clone(), confidences[i].clone()) for i in range(num_rows)]

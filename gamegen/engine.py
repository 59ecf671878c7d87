"""The world engine: draws chunk after chunk of many sessions, while keys and instructions arrive.

Every session has its own cache slot; sessions join and leave at chunk boundaries, and one forward draws them all. A KV
cache is only a cache: `restore` rebuilds it from the latents in a snapshot.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gamegen.batch_inputs import BatchInputs, InputStacker
from gamegen.controls import FRAMES_PER_CHUNK, OPERATION_SIZE
from gamegen.device import one_thread
from gamegen.flow import add_noise, expand_levels, predict_x0, schedule
from gamegen.models.checkpoint import Model
from gamegen.models.frame_pass import (
    CompiledFramePass,
    DirectFramePass,
    FrameInputs,
    build_frame_pass,
    temporal_attentions,
)
from gamegen.models.ring_cache import Caches, RingCache
from gamegen.models.sampling import SamplingConfig
from gamegen.models.text import MAX_TOKENS, TextStates
from gamegen.models.vae import SPATIAL_FACTOR
from gamegen.models.variants import Variant
from gamegen.session import Manner, Session, Underway
from gamegen.snapshot import PastChunk, Steering, WorldSnapshot
from gamegen.video_prompts import MAX_CHUNKS


@dataclass(frozen=True)
class EngineConfig:
    """`max_sessions` cache slots are allocated at the start.

    With `rows`, every pass has so many, and if that is more than one all prompts are padded to the longest there may
    be: what is drawn of a session then does not depend on who is drawn with it. None takes as many as there are.
    """

    max_sessions: int = 4
    rows: int | None = None


class UnknownSessionError(KeyError):
    """The engine holds no session of that name."""


class WorldEngine:
    """Many sessions, one forward a denoising step."""

    def __init__(
        self,
        model: Model,
        config: EngineConfig = EngineConfig(),
        size: tuple[int, int] | None = None,
    ) -> None:
        if model.foundation is None or model.instructnet is None:
            raise ValueError("this checkpoint has no foundation and InstructNet: train those stages first")
        self.model = model
        self.foundation, self.instructnet = model.foundation, model.instructnet
        self.sampling = model.config.sampling
        self._manner = Manner(self.sampling)
        self.size = size or (model.config.width, model.config.height)
        width, height = self.size
        self.latent_shape = (
            model.config.vae.latent_channels,
            height // SPATIAL_FACTOR,
            width // SPATIAL_FACTOR,
        )
        self.max_sessions = config.max_sessions
        self._free = list(range(config.max_sessions))
        self._sessions: dict[str, Session] = {}
        self._uncommitted: list[_Drawn] = []
        self._numbers = itertools.count()
        self.rows = config.rows
        # Sessions of several batches may take their steps by turns.
        num_batches = -(-config.max_sessions // (config.rows or config.max_sessions))
        text_length = MAX_TOKENS if (config.rows or 1) > 1 else 1
        self._inputs = InputStacker(model, self.latent_shape, text_length, 4 * num_batches)
        attentions = temporal_attentions(self.foundation, self.instructnet)
        self._caches = Caches([self._ring(attention) for attention in attentions])
        self.frame_pass: Callable[..., Tensor] = build_frame_pass(
            self.foundation, self.instructnet, self.size, model.may_compile, model.int8_layers
        )
        self._is_compiled = isinstance(self.frame_pass, CompiledFramePass)
        # No graph has an input for video prompts: sessions that follow one are drawn by the networks themselves.
        self._networks = DirectFramePass(self.foundation, self.instructnet, self.size)
        self.sees_video = bool(self.instructnet.video_in.weight.any())
        """Whether the checkpoint was trained with video prompts: without, their way in stays zero."""
        window = self.foundation.config.window - 1
        # Each temporal attention reaches a window further back; one more latent is the first one's predecessor.
        self.history = len(self._caches.rings) * window + 1
        self.anchors = self.foundation.config.anchors

    @classmethod
    def load(
        cls, name_or_path: str | Path = "nano", device: str | None = None, config: EngineConfig | None = None
    ) -> WorldEngine:
        """An engine for a checkpoint or a variant of one; raises CheckpointError for a missing or damaged one."""
        return cls(Variant.parse(str(name_or_path)).load(device), config or EngineConfig())

    def _ring(self, attention) -> RingCache:
        _, height, width = self.latent_shape
        return RingCache(attention, self.max_sessions, height * width // 4, self.foundation.dtype)

    def open(
        self,
        session_id: str,
        prompt: TextStates,
        seed: int,
        first_latents: Tensor | None = None,
    ) -> None:
        """Starts a session; it goes on from `first_latents` `(T, C, h, w)`, normalised (see `Model.encode`).

        Nobody played them. More than `history` are forgotten again. Raises RuntimeError when every slot is taken.
        """
        if session_id in self._sessions:
            self.close(session_id)
        session = self._take_slot(session_id, Session(-1, seed, prompt, self._manner))
        for latent in () if first_latents is None else first_latents.half().cpu():
            self._commit_known(session, PastChunk(latent, Steering(idle_operations())))

    def instruct(self, session_id: str, instruction: TextStates | None, blend_chunks: int = 0) -> None:
        """Puts an instruction in force from the next chunk on, all of it `blend_chunks` later; None lifts it.

        Until then it comes in by equal steps, from whatever is in force. Raises ValueError for more than
        `MAX_BLEND_CHUNKS`, and UnknownSessionError.
        """
        self._session(session_id).instruct(instruction, blend_chunks)

    def prompt_video(self, session_id: str, latents: Tensor | None) -> None:
        """Steers the next T chunks by a video prompt, which then ends by itself; None ends one at once.

        `latents` `(T, C, h, w)`, normalised; see `encode_video_prompt`. Raises ValueError for latents of another
        size, for more than `MAX_CHUNKS` of them, or if the checkpoint was not trained with any, and
        UnknownSessionError.
        """
        session = self._session(session_id)
        if latents is None:
            session.videos = []
            return
        self.check_sees_video()
        if tuple(latents.shape[1:]) != self.latent_shape:
            raise ValueError(
                f"a video prompt of shape {tuple(latents.shape)}: it is (T, C, h, w) with {self.latent_shape} here"
            )
        if not 1 <= len(latents) <= MAX_CHUNKS:
            raise ValueError(f"a video prompt of {len(latents)} chunks: it has 1 to {MAX_CHUNKS}")
        # Rounded to float16, so that a snapshot holds exactly what the run used.
        rounded = latents.half().cpu()
        if not rounded.isfinite().all():
            raise ValueError("a video prompt with values that are no numbers")
        session.videos = [*rounded]

    def check_sees_video(self) -> None:
        """Raises ValueError if the checkpoint was not trained with video prompts."""
        if not self.sees_video:
            raise ValueError("this checkpoint follows no video prompts: train one with some")

    def version(self, session_id: str) -> int | None:
        """Chunks made so far, or None if the session is not here."""
        session = self._sessions.get(session_id)
        return session.version if session else None

    def close(self, session_id: str) -> None:
        """Frees the session's slot; unknown sessions are ignored."""
        session = self._sessions.get(session_id)
        # What it alone would remember, nobody will ask for.
        if session:
            self._uncommitted = [drawn for drawn in self._uncommitted if {*drawn.slots} != {session.slot}]
        self.commit()
        session = self._sessions.pop(session_id, None)
        if session:
            self._caches.clear(session.slot)
            self._free.append(session.slot)

    @torch.inference_mode()
    def step(self, operations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Draws the next chunk of each named session.

        `operations` maps session ids to float32 `(4, OPERATION_SIZE)`; returns float16 latents `(C, h, w)`,
        normalised. They can be shown at once; what the next chunk remembers of them is written by `commit`, or here
        when it comes to that. Raises UnknownSessionError.
        """
        self.commit()
        # Sessions that begin take other steps than those that go on.
        groups: dict[int, dict[str, Underway]] = {}
        for sid, chunk in self.begin(operations).items():
            groups.setdefault(chunk.num_steps, {})[sid] = chunk
        drawn: dict[str, np.ndarray] = {}
        for num_steps, chunks in groups.items():
            for _ in range(num_steps):
                chunks = self._denoise(chunks)
            drawn |= self.finish(chunks)
        return {sid: drawn[sid] for sid in operations}

    @torch.inference_mode()
    def begin(self, operations: dict[str, np.ndarray]) -> dict[str, Underway]:
        """The next chunk of each named session before its first denoising step; the sessions stay as they are.

        Raises UnknownSessionError.
        """
        return {sid: self._begun(self._session(sid), done) for sid, done in operations.items()}

    @torch.inference_mode()
    def denoise(self, chunks: dict[str, Underway]) -> dict[str, Underway]:
        """Takes the chunk of each session one denoising step further, however many steps each has had.

        What is cached stays as it is until `finish`: a chunk may be put aside, or be taken up again elsewhere, after
        any step. Raises UnknownSessionError.
        """
        self.commit()
        return self._denoise(chunks)

    @torch.inference_mode()
    def finish(self, chunks: dict[str, Underway]) -> dict[str, np.ndarray]:
        """Has sessions go on from chunks whose steps are done; returns latents as `step` does."""
        for batch in self._batches(chunks):
            self._finish(batch)
        return {sid: self._session(sid).chunks[-1].latent.numpy().copy() for sid in chunks}

    def _begun(self, session: Session, operations: np.ndarray) -> Underway:
        sampling = session.manner.sampling
        x = self._inputs.noise([session], ["start"])[0, 0]
        num_steps = sampling.num_steps if session.version else sampling.first_steps
        return Underway(next(self._numbers), session.steering(operations), x, 0, num_steps)

    def _batches(self, chunks: dict[str, Underway]) -> Iterator[_Batch]:
        """Those that are drawn together: in one manner, and by the same pass."""
        kinds: dict[tuple[SamplingConfig, bool], list[str]] = {}
        # By slot: neighbours in the caches are read without copies.
        for sid in sorted(chunks, key=lambda sid: self._session(sid).slot):
            needs_networks = self._is_compiled and chunks[sid].steering.video is not None
            kinds.setdefault((self._session(sid).manner.sampling, needs_networks), []).append(sid)
        for (sampling, _), sids in kinds.items():
            rows = self.rows or len(sids)
            for some in (sids[i : i + rows] for i in range(0, len(sids), rows)):
                filled = self._filled(some)
                yield _Batch(
                    some, [self._session(sid) for sid in filled], [chunks[sid] for sid in filled], sampling
                )

    def _filled(self, some: list[Any]) -> list[Any]:
        """As many as a pass has rows: those that nobody needs repeat the last."""
        return some + some[-1:] * (self.rows - len(some) if self.rows else 0)

    def _denoise(self, chunks: dict[str, Underway]) -> dict[str, Underway]:
        drawn: dict[str, Underway] = {}
        with one_thread(self._is_compiled):
            for batch in self._batches(chunks):
                x = self._denoised(batch)[:, 0]
                for sid, chunk, latent in zip(batch.sids, batch.chunks, x, strict=False):
                    drawn[sid] = replace(chunk, x=latent, steps_done=chunk.steps_done + 1)
        return drawn

    def _denoised(self, batch: _Batch) -> Tensor:
        device, sampling = self.model.device, batch.sampling
        inputs = self._inputs.of_chunks(batch.sessions, batch.chunks)
        self._caches.select(batch.slots)
        x = torch.stack([chunk.x for chunk in batch.chunks])[:, None]
        levels = [schedule(chunk.num_steps, sampling.shift)[chunk.steps_done :][:2] for chunk in batch.chunks]
        level_BT = torch.tensor([[level] for level, _ in levels], device=device)
        velocity = self._velocity(inputs, x, level_BT, sampling.guidance_scale)
        if sampling.solver == "euler":
            change_BT = torch.tensor([[following - level] for level, following in levels], device=device)
            return x + expand_levels(change_BT) * velocity
        noise = self._inputs.noise(batch.sessions, [f"step{chunk.steps_done}" for chunk in batch.chunks])
        following_BT = torch.tensor([[following] for _, following in levels], device=device)
        return add_noise(predict_x0(x, velocity, level_BT), noise, following_BT)

    def _velocity(self, inputs: BatchInputs, x: Tensor, level_BT: Tensor, guidance_scale: float) -> Tensor:
        velocity = self._forward(inputs.told, x, level_BT)
        if inputs.untold is None:
            return velocity
        without = self._forward(inputs.untold, x, level_BT)
        return without + guidance_scale * (velocity - without)

    def _forward(self, inputs: FrameInputs, x: Tensor, level_BT: Tensor) -> Tensor:
        frame_pass = self.frame_pass if inputs.controls.video is None else self._networks
        return frame_pass(x, level_BT, inputs, self._caches)

    def _finish(self, batch: _Batch) -> None:
        inputs = self._inputs.of_chunks(batch.sessions, batch.chunks).told
        # Rounded to float16, so that a snapshot holds exactly what the run used.
        latents = torch.stack([chunk.x for chunk in batch.chunks]).half()
        self._uncommitted.append(self._drawn(inputs, batch.sessions, latents))
        finished = zip(batch.sids, batch.sessions, batch.chunks, latents.cpu(), strict=False)
        for _, session, chunk, latent in finished:
            session.remember(PastChunk(latent, chunk.steering), self.history, self.anchors)
            session.advance()

    def _drawn(self, inputs: FrameInputs, sessions: list[Session], latents: Tensor) -> _Drawn:
        """Finished latents as temporal attention is to see them: at the history level."""
        level = sessions[0].manner.sampling.history_level
        level_BT = torch.full((len(sessions), 1), level, device=self.model.device)
        x = add_noise(
            latents.float()[:, None], self._inputs.noise(sessions, ["commit"] * len(sessions)), level_BT
        )
        return _Drawn(inputs, [s.slot for s in sessions], x, level_BT)

    @torch.inference_mode()
    def commit(self) -> None:
        """One pass over the latents last drawn leaves their keys and values in the rings; nothing if it has been done.

        It is a third of the work of a chunk in two steps, and nobody need wait for it.
        """
        uncommitted, self._uncommitted = self._uncommitted, []
        with one_thread(self._is_compiled):
            self._commit(uncommitted)

    def _commit(self, uncommitted: list[_Drawn]) -> None:
        for drawn in uncommitted:
            self._caches.select(drawn.slots)
            try:
                self._forward(drawn.inputs, drawn.x, drawn.level)
            except Exception:
                # Their caches lack a chunk from now on: whoever wants them has to restore them.
                for session_id in [i for i, s in self._sessions.items() if s.slot in drawn.slots]:
                    self.close(session_id)
                raise
            self._caches.commit()

    def snapshot(self, session_id: str) -> WorldSnapshot:
        """The session at its last chunk boundary."""
        return self._session(session_id).snapshot()

    @torch.inference_mode()
    def restore(self, session_id: str, snapshot: WorldSnapshot, manner: Manner | None = None) -> None:
        """Takes a session over: replays the cached passes of its snapshot, so it continues as if never moved.

        It goes on in the model's own manner if none is given. Raises ValueError for a snapshot of another model or
        size, and RuntimeError when every slot is taken.
        """
        self._check_fits(snapshot)
        self.close(session_id)
        session = self._take_slot(
            session_id, Session(-1, snapshot.seed, snapshot.prompt, manner or self._manner)
        )
        chunks = snapshot.chunks
        oldest = snapshot.version - len(chunks)
        if oldest:
            for chunk in snapshot.anchors[: oldest + 1]:
                self._commit_known(session, chunk)
            # The oldest latent is only the predecessor of the next; what came before it no cache entry needs.
            self._caches.set_length(session.slot, oldest + 1)
            session.version, session.chunks = oldest + 1, [chunks[0]]
        for chunk in chunks[1 if oldest else 0 :]:
            self._commit_known(session, chunk)
        session.ahead, session.videos = [*snapshot.ahead], [*snapshot.videos]

    def _check_fits(self, snapshot: WorldSnapshot) -> None:
        made = [chunk.latent for chunk in (*snapshot.anchors, *snapshot.chunks)]
        for shape in {tuple(latent.shape) for latent in (*made, *snapshot.videos)} - {self.latent_shape}:
            raise ValueError(f"a snapshot of latents {shape}: this world's are {self.latent_shape}")
        found, width = snapshot.prompt.tokens.shape[1], self.foundation.config.text_width
        if found != width:
            raise ValueError(f"a snapshot of texts of width {found}: this world reads those of width {width}")

    def _commit_known(self, session: Session, chunk: PastChunk) -> None:
        sessions, chunks = self._filled([session]), self._filled([chunk])
        inputs = self._inputs.stacked(sessions, [known.steering for known in chunks]).told
        latents = torch.stack([known.latent for known in chunks]).to(self.model.device)
        self._uncommitted.append(self._drawn(inputs, sessions, latents))
        self.commit()
        session.remember(chunk, self.history, self.anchors)

    def _take_slot(self, session_id: str, session: Session) -> Session:
        self.commit()
        if not self._free:
            raise RuntimeError(f"all {self.max_sessions} session slots are taken: close one or add a replica")
        session.slot = self._free.pop(0)
        self._caches.clear(session.slot)
        self._sessions[session_id] = session
        return session

    def _session(self, session_id: str) -> Session:
        try:
            return self._sessions[session_id]
        except KeyError:
            raise UnknownSessionError(session_id) from None


@dataclass(frozen=True)
class _Batch:
    """Rows of one pass: sessions and their chunks, and whose rows the first of them are; the others fill it."""

    sids: list[str]
    sessions: list[Session]
    chunks: list[Underway]
    sampling: SamplingConfig

    @property
    def slots(self) -> list[int]:
        """The cache slots of its rows."""
        return [session.slot for session in self.sessions]


@dataclass(frozen=True)
class _Drawn:
    """Chunks that are not yet in the caches of their slots."""

    inputs: FrameInputs
    slots: list[int]
    x: Tensor
    level: Tensor


def idle_operations() -> np.ndarray:
    """The operations of nobody touching anything, float32 `(4, OPERATION_SIZE)`."""
    return np.zeros((FRAMES_PER_CHUNK, OPERATION_SIZE), np.float32)

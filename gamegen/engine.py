"""The world engine: draws chunk after chunk of many sessions, while keys and instructions arrive.

Every session has its own cache slot; sessions join and leave at chunk boundaries, and one forward draws them all. A KV
cache is only a cache: `restore` rebuilds it from the latents in a snapshot.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gamegen.controls import FRAMES_PER_CHUNK, OPERATION_SIZE
from gamegen.device import one_thread
from gamegen.flow import add_noise, counter_noise, predict_x0, schedule
from gamegen.models.checkpoint import Model
from gamegen.models.frame_pass import (
    CompiledFramePass,
    DirectFramePass,
    FrameInputs,
    build_frame_pass,
    temporal_attentions,
)
from gamegen.models.instructnet import Controls
from gamegen.models.msdit import Previous, Text
from gamegen.models.ring_cache import Caches, RingCache
from gamegen.models.text import TextStates
from gamegen.models.vae import SPATIAL_FACTOR
from gamegen.models.variants import Variant
from gamegen.session import Session
from gamegen.snapshot import PastChunk, Steering, WorldSnapshot
from gamegen.video_prompts import MAX_CHUNKS

_KEPT_TEXTS = 4
"""Batches of prompts or instructions of which an engine keeps what it has computed."""


@dataclass(frozen=True)
class EngineConfig:
    """`max_sessions` cache slots are allocated at the start."""

    max_sessions: int = 4


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
        self._texts: OrderedDict[tuple[int, ...], tuple[Sequence[TextStates | None], Text]] = OrderedDict()
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

    def sized(self, width: int, height: int) -> WorldEngine:
        """This engine if it draws that size (pixels), else another over the same weights."""
        if (width, height) == self.size:
            return self
        return WorldEngine(self.model, EngineConfig(max_sessions=1), (width, height))

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
        session = self._take_slot(session_id, Session(-1, seed, prompt))
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
        sessions = {sid: self._session(sid) for sid in operations}
        groups: dict[tuple[bool, bool], list[str]] = {}
        # By slot: neighbours in the caches are read without copies.
        for sid in sorted(sessions, key=lambda sid: sessions[sid].slot):
            groups.setdefault(self._kind(sessions[sid]), []).append(sid)
        with one_thread(self._is_compiled):
            for (continues, _), group in sorted(groups.items()):
                self._step_group(
                    [sessions[sid] for sid in group], [operations[sid] for sid in group], not continues
                )
        return {sid: session.chunks[-1].latent.numpy().copy() for sid, session in sessions.items()}

    def _kind(self, session: Session) -> tuple[bool, bool]:
        """What sessions drawn together have in common: whether they go on, and whether they need another pass."""
        return session.version > 0, self._is_compiled and bool(session.videos)

    def _step_group(self, sessions: list[Session], operations: list[np.ndarray], first: bool) -> None:
        steering = [session.steering(done) for session, done in zip(sessions, operations, strict=True)]
        inputs = self._inputs(sessions, steering)
        steps = self.sampling.first_steps if first else self.sampling.num_steps
        x = self._noise(sessions, "start")
        levels = schedule(steps, self.sampling.shift)
        for i, (level, following) in enumerate(itertools.pairwise(levels)):
            level_BT = torch.full((len(sessions), 1), level, device=self.model.device)
            velocity = self._velocity(inputs, x, level_BT)
            if self.sampling.solver == "euler":
                x = x + (following - level) * velocity
            else:
                x0 = predict_x0(x, velocity, level_BT)
                x = add_noise(x0, self._noise(sessions, f"step{i}"), torch.full_like(level_BT, following))
        # Rounded to float16, so that a snapshot holds exactly what the run used.
        latents = x[:, 0].half()
        self._uncommitted.append(self._drawn(inputs, sessions, latents))
        for session, latent, steered in zip(sessions, latents.cpu(), steering, strict=True):
            session.remember(PastChunk(latent, steered), self.history, self.anchors)
            session.advance()

    def _inputs(self, sessions: list[Session], steering: list[Steering]) -> FrameInputs:
        device, B = self.model.device, len(sessions)
        controls = Controls(
            torch.from_numpy(np.stack([s.operations for s in steering])).float()[:, None].to(device),
            torch.ones(B, 1, dtype=torch.bool, device=device),
            self._text([s.words.heard() for s in steering]),
            torch.tensor([[s.words.gate] for s in steering], device=device),
            *self._videos([s.video for s in steering]),
        )
        prompt = self._text([s.prompt for s in sessions])
        level = self.sampling.context_level
        has_previous = torch.tensor([[bool(s.chunks)] for s in sessions], device=device)
        zero = torch.zeros(self.latent_shape, dtype=torch.float16)
        latents = torch.stack([s.chunks[-1].latent if s.chunks else zero for s in sessions])
        previous = latents.float().to(device)[:, None]
        noisy = add_noise(
            previous, self._noise(sessions, "previous"), torch.full((B, 1), level, device=device)
        )
        self._caches.select([s.slot for s in sessions])
        before = Previous(previous, noisy, torch.where(has_previous, level, -1.0))
        return FrameInputs(prompt, controls, before)

    def _videos(self, videos: list[Tensor | None]) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Latents of video prompts `(B, 1, C, h, w)` and whose there are `(B,)`; nothing where nobody has one."""
        has_video = torch.tensor([video is not None for video in videos], device=self.model.device)
        if not any(video is not None for video in videos):
            return None, None
        zero = torch.zeros(self.latent_shape, dtype=torch.float16)
        latents = torch.stack([zero if video is None else video for video in videos])
        return latents.float()[:, None].to(self.model.device), has_video

    def _text(self, states: Sequence[TextStates | None]) -> Text:
        """Texts of a batch. The same ones come with every chunk: what is known of them is kept."""
        key = tuple(id(text) for text in states)
        if key not in self._texts:
            width = self.foundation.config.text_width
            pairs = [None if text is None else (text.tokens, text.pooled) for text in states]
            # The states are kept as well, so that no other object takes their identity.
            self._texts[key] = (states, Text.stack(pairs, width).to(self.model.device))
        self._texts.move_to_end(key)
        while len(self._texts) > _KEPT_TEXTS:
            self._texts.popitem(last=False)
        return self._texts[key][1]

    def _velocity(self, inputs: FrameInputs, x: Tensor, level_BT: Tensor) -> Tensor:
        guidance = self.sampling.guidance_scale
        velocity = self._forward(inputs, x, level_BT)
        if guidance == 1:
            return velocity
        everything = torch.ones(len(x), dtype=torch.bool, device=x.device)
        unguided = replace(
            inputs, prompt=inputs.prompt.dropped(everything), controls=inputs.controls.dropped()
        )
        without = self._forward(unguided, x, level_BT)
        return without + guidance * (velocity - without)

    def _forward(self, inputs: FrameInputs, x: Tensor, level_BT: Tensor) -> Tensor:
        frame_pass = self.frame_pass if inputs.controls.video is None else self._networks
        return frame_pass(x, level_BT, inputs, self._caches)

    def _drawn(self, inputs: FrameInputs, sessions: list[Session], latents: Tensor) -> _Drawn:
        """Finished latents as temporal attention is to see them: at the history level."""
        level_BT = torch.full((len(sessions), 1), self.sampling.history_level, device=self.model.device)
        x = add_noise(latents.float()[:, None], self._noise(sessions, "commit"), level_BT)
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

    def _noise(self, sessions: list[Session], purpose: str) -> Tensor:
        noise = [counter_noise(s.seed, s.version, purpose, self.latent_shape) for s in sessions]
        return torch.stack(noise)[:, None].to(self.model.device)

    def snapshot(self, session_id: str) -> WorldSnapshot:
        """The session at its last chunk boundary."""
        return self._session(session_id).snapshot()

    @torch.inference_mode()
    def restore(self, session_id: str, snapshot: WorldSnapshot) -> None:
        """Takes a session over: replays the cached passes of its snapshot, so it continues as if never moved.

        Raises ValueError for a snapshot of another model or size, and RuntimeError when every slot is taken.
        """
        self._check_fits(snapshot)
        self.close(session_id)
        session = self._take_slot(session_id, Session(-1, snapshot.seed, snapshot.prompt))
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
        inputs = self._inputs([session], [chunk.steering])
        self._uncommitted.append(self._drawn(inputs, [session], chunk.latent[None].to(self.model.device)))
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
class _Drawn:
    """Chunks that are not yet in the caches of their slots."""

    inputs: FrameInputs
    slots: list[int]
    x: Tensor
    level: Tensor


def idle_operations() -> np.ndarray:
    """The operations of nobody touching anything, float32 `(4, OPERATION_SIZE)`."""
    return np.zeros((FRAMES_PER_CHUNK, OPERATION_SIZE), np.float32)

"""World engine: generates chunk after chunk of many sessions, whose operations and instructions arrive meanwhile.

Each session has a slot of the KV caches. Sessions open and close at chunk boundaries, and one forward pass denoises
them together. The caches hold nothing that a snapshot lacks: `restore` rebuilds them from its latents.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.device import one_thread
from gamegen.engine.batch_runner import BatchRunner
from gamegen.engine.batching import Batch, make_batches
from gamegen.engine.conditioning import Conditioning, idle_operations
from gamegen.engine.latent_decoder import LatentDecoder, StreamPast
from gamegen.engine.slots import SlotTable
from gamegen.engine.snapshot import PastChunk, WorldSnapshot
from gamegen.engine.state import ChunkReference, DenoisingState, SamplingParams, Session
from gamegen.engine.variants import Variant
from gamegen.media.prompt_pictures import MAX_PROMPT_CHUNKS
from gamegen.models.model import Model
from gamegen.models.opening import Opening
from gamegen.models.streaming_decoder import Reference
from gamegen.models.text import TextStates
from gamegen.models.view_memory import ViewMemory


@dataclass(frozen=True)
class EngineConfig:
    """`max_sessions` cache slots are allocated when the engine is built.

    With `rows`, every forward pass has that many rows, and with more than one all prompts are padded to the longest
    possible: a session's latents then do not depend on the other sessions of its batch. With None, a pass has as many
    rows as there are sessions.
    """

    max_sessions: int = 4
    rows: int | None = None


class WorldEngine:
    """Batched generation of many sessions: one forward pass per denoising step."""

    def __init__(
        self,
        model: Model,
        config: EngineConfig = EngineConfig(),
        size: tuple[int, int] | None = None,
    ) -> None:
        if model.foundation is None or model.instructnet is None:
            raise ValueError("this checkpoint has no foundation and InstructNet: train those stages first")
        self.model = model
        self.foundation = model.foundation
        self.instructnet = model.instructnet
        self.sampling = model.config.sampling
        self.size = size or (model.config.width, model.config.height)
        self.max_sessions = config.max_sessions
        self.rows = config.rows
        self.anchors = self.foundation.config.anchors
        self.sees_video = bool(self.instructnet.video_in.weight.any())
        """True if the checkpoint was trained with video prompts; otherwise their projection is still zero."""
        self.runner = BatchRunner(model, max_sessions=config.max_sessions, rows=config.rows, size=self.size)
        self._slots = SlotTable(config.max_sessions)
        self._numbers = itertools.count()
        if model.follows_shown_frames:
            # Compiled now, so that the first chunk does not wait for it.
            _ = self._decoder.predict_motion

    @cached_property
    def _decoder(self) -> LatentDecoder:
        return LatentDecoder(self.model, self.latent_shape)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of a latent."""
        return self.runner.latent_shape

    @property
    def history(self) -> int:
        """Number of latents that the next chunk depends on, besides the anchors."""
        return self.runner.history

    @classmethod
    def load(
        cls, name_or_path: str | Path = "nano", device: str | None = None, config: EngineConfig | None = None
    ) -> WorldEngine:
        """An engine for a checkpoint or a variant of one; raises CheckpointError for a missing or damaged one."""
        return cls(Variant.parse(str(name_or_path)).load(device), config or EngineConfig())

    @torch.inference_mode()
    def open(
        self,
        session_id: str,
        prompt: TextStates,
        seed: int,
        opening: Opening | None = None,
    ) -> None:
        """Opens a session, in place of an open one of the same id.

        It continues the latents of `opening`, which count as chunks without input; all but the last `history` are
        dropped. Where they are varied, the last one is changed by the seed and the prompt, see
        `SamplingConfig.start_level`. Raises RuntimeError if every slot is taken.
        """
        if self._slots.find(session_id):
            self.close(session_id)
        session = self._add(session_id, self._new_session(seed, prompt))
        if opening is None:
            return
        is_varied = opening.is_varied and session.params.sampling.start_level > 0
        for number, latent in enumerate(opening.latents.half().cpu(), 1):
            chunk = PastChunk(latent, Conditioning(idle_operations()))
            if is_varied and number == len(opening.latents):
                chunk = replace(chunk, latent=self.runner.varied(session, chunk))
            self._append_chunk(session, chunk)
        if opening.shown is not None:
            session.frames = opening.shown
        # It begins where the player does, with what is shown now.
        session.memory = ViewMemory()

    def instruct(self, session_id: str, instruction: TextStates | None, blend_chunks: int = 0) -> None:
        """Puts an instruction in force from the next chunk on, fully `blend_chunks` later; None lifts it.

        It comes in by equal steps from whatever is in force. Raises ValueError for more than `MAX_BLEND_CHUNKS`, and
        UnknownSessionError.
        """
        self._slots.get(session_id).instruct(instruction, blend_chunks)

    def prompt_video(self, session_id: str, latents: Tensor | None) -> None:
        """Conditions the next T chunks on a video prompt, which then ends by itself; None ends one at once.

        `latents` `(T, C, h, w)`, normalised; see `encode_video_prompt`. Raises ValueError for latents of another
        size, for more than `MAX_PROMPT_CHUNKS` of them, or if the checkpoint was not trained with any, and
        UnknownSessionError.
        """
        session = self._slots.get(session_id)
        if latents is not None:
            self.check_sees_video()
        session.videos = [] if latents is None else _rounded_video(latents, self.latent_shape)

    def check_sees_video(self) -> None:
        """Raises ValueError if the checkpoint was not trained with video prompts."""
        if not self.sees_video:
            raise ValueError("this checkpoint follows no video prompts: train one with some")

    def version(self, session_id: str) -> int | None:
        """Number of chunks generated so far, or None if the session is not open."""
        session = self._slots.find(session_id)
        return session.version if session else None

    def close(self, session_id: str) -> None:
        """Frees the session's slot; unknown sessions are ignored."""
        session = self._slots.find(session_id)
        if session:
            # Nothing will read what would be committed for this session alone.
            self.runner.discard_pending(session.slot)
        self.commit()
        session = self._slots.remove(session_id)
        if session:
            self.runner.caches.clear(session.slot)

    @torch.inference_mode()
    def step(self, operations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Generates the next chunk of each session.

        `operations` maps session ids to float32 `(4, OPERATION_SIZE)`; returns float16 latents `(C, h, w)`,
        normalised. They can be shown at once: their keys and values are written by `commit`, or by the next step.
        Raises UnknownSessionError.
        """
        self.commit()
        # The first chunk of a session takes another number of steps than the later ones.
        groups: dict[int, dict[str, DenoisingState]] = {}
        for session_id, chunk in self.begin(operations).items():
            groups.setdefault(chunk.num_steps, {})[session_id] = chunk
        latents: dict[str, np.ndarray] = {}
        for num_steps, chunks in groups.items():
            for _ in range(num_steps):
                chunks = self._denoise(chunks)
            latents |= self.finish(chunks)
        return {session_id: latents[session_id] for session_id in operations}

    @torch.inference_mode()
    def begin(self, operations: dict[str, np.ndarray]) -> dict[str, DenoisingState]:
        """The next chunk of each session before its first denoising step; the sessions do not change.

        `operations` as in `step`. Raises UnknownSessionError.
        """
        return {
            session_id: self._start(self._slots.get(session_id), done)
            for session_id, done in operations.items()
        }

    @torch.inference_mode()
    def denoise(self, chunks: dict[str, DenoisingState]) -> dict[str, DenoisingState]:
        """Takes the chunk of each session one denoising step further, however many steps each has had.

        The caches do not change until `finish`: after any step a chunk may be put aside, or be continued elsewhere.
        Raises UnknownSessionError.
        """
        self.commit()
        return self._denoise(chunks)

    @torch.inference_mode()
    def finish(self, chunks: dict[str, DenoisingState]) -> dict[str, np.ndarray]:
        """Appends chunks that have taken all their steps to their sessions; returns latents as `step` does."""
        for batch in self._batches(chunks):
            finished = zip(batch.session_ids, batch.sessions, self.runner.finish(batch), strict=False)
            for _, session, chunk in finished:
                session.append(chunk, self.history, self.anchors)
                session.advance()
        return {
            session_id: self._slots.get(session_id).chunks[-1].latent.numpy().copy() for session_id in chunks
        }

    def _start(self, session: Session, operations: np.ndarray) -> DenoisingState:
        sampling = session.params.sampling
        return DenoisingState(
            number=next(self._numbers),
            conditioning=session.conditioning(operations),
            x=self.runner.initial_noise(session),
            steps_done=0,
            num_steps=sampling.num_steps if session.version else sampling.first_steps,
        )

    def _batches(self, chunks: dict[str, DenoisingState]) -> list[Batch]:
        sessions = {session_id: self._slots.get(session_id) for session_id in chunks}
        return make_batches(sessions, chunks, rows=self.rows, splits_video=self.runner.is_compiled)

    def _denoise(self, chunks: dict[str, DenoisingState]) -> dict[str, DenoisingState]:
        denoised: dict[str, DenoisingState] = {}
        with one_thread(self.runner.is_compiled):
            for batch in self._batches(chunks):
                x = self.runner.denoise(batch)
                # The rows beyond the batch's own are padding.
                for session_id, chunk, latent in zip(batch.session_ids, batch.chunks, x, strict=False):
                    denoised[session_id] = replace(chunk, x=latent, steps_done=chunk.steps_done + 1)
        return denoised

    @torch.inference_mode()
    def commit(self) -> None:
        """Writes keys and values of the chunks finished last into the caches, by one forward pass; repeatable.

        It is a third of the work of a chunk in two steps, and can run while the chunk is decoded and shown. Models that
        follow the shown frames decode them here as well.
        """
        self.runner.commit(on_failure=self._close_slots)
        if self.model.follows_shown_frames:
            for session in self._slots.sessions():
                self._decode(session)

    def frames(self, session_id: str) -> np.ndarray:
        """The chunk generated last, uint8 `(4, H, W, 3)`, decoded if it is not yet.

        Raises UnknownSessionError, and ValueError for a session that has generated none since it was opened or
        restored.
        """
        session = self._slots.get(session_id)
        self._decode(session)
        if session.frames is None or len(session.frames) < FRAMES_PER_CHUNK:
            raise ValueError(f"session {session_id!r} has generated no chunk yet: step it first")
        return session.frames.numpy()

    def reference(self, session_id: str) -> Reference | None:
        """Reference of the last chunk, float16, with which a decoder elsewhere shows what `frames` returns.

        Known until `commit`. None for a stream's first chunk, and for models whose decoder sees none. Raises
        UnknownSessionError.
        """
        return self._reference(self._slots.get(session_id))

    def _reference(self, session: Session) -> Reference | None:
        """Reference of a session's last chunk, computed if generation has not needed it."""
        if session.reference is None or session.reference.version != session.version - 1:
            done = session.chunks[-1].conditioning.operations
            found = self._decoder.reference([session.past], [done])
            session.reference = ChunkReference(session.version - 1, found, session.memory)
        return session.reference.reference

    def _decode(self, session: Session) -> None:
        """Decodes a session's last chunk, if it is not yet: alone, so that its frames depend on no other session."""
        if session.chunks and session.frames is None:
            latents, memories = [session.chunks[-1].latent], [session.past.latent]
            parts = self._decoder.decode_in_parts(latents, memories, self._reference(session))
            session.frames = torch.cat([part[0] for part in parts])
            session.reference = None

    def _close_slots(self, slots: list[int]) -> None:
        """Closes sessions whose caches lack a chunk; their clients restore them."""
        for session_id in self._slots.ids_in(slots):
            self.close(session_id)

    def snapshot(self, session_id: str) -> WorldSnapshot:
        """The session at its last chunk boundary; raises UnknownSessionError."""
        session = self._slots.get(session_id)
        if self.model.follows_shown_frames:
            self._decode(session)
        return session.snapshot()

    @torch.inference_mode()
    def restore(self, session_id: str, snapshot: WorldSnapshot, params: SamplingParams | None = None) -> None:
        """Opens a session from a snapshot, and rebuilds its caches: it continues as if it had never moved.

        `params` None takes the model's own sampling. Raises ValueError for a snapshot of another model or size, and
        RuntimeError if every slot is taken.
        """
        snapshot.check_fits(self.latent_shape, self.foundation.config.text_width)
        self.close(session_id)
        session = self._add(session_id, self._new_session(snapshot.seed, snapshot.prompt, params))
        chunks = snapshot.chunks
        oldest = snapshot.version - len(chunks)
        if oldest:
            for chunk in snapshot.anchors[: oldest + 1]:
                self._append_chunk(session, chunk)
            # The next one's input is made of the oldest one: no cache entry depends on what came before that.
            self.runner.caches.set_length(session.slot, oldest + 1)
            session.version = oldest + 1
            session.chunks, session.past, session.frames = chunks[:1], StreamPast(), None
        for chunk in chunks[1 if oldest else 0 :]:
            self._append_chunk(session, chunk)
        if snapshot.shown is not None and chunks:
            # Of the last chunk's frames these are all that the next one depends on.
            session.frames = snapshot.shown
        session.memory = snapshot.memory
        session.upcoming = [*snapshot.upcoming]
        session.videos = [*snapshot.videos]

    def _append_chunk(self, session: Session, chunk: PastChunk) -> None:
        """Appends a chunk whose latent is known, and commits it."""
        known = self.runner.add_known(session, chunk)
        self.runner.commit(on_failure=self._close_slots)
        session.append(known, self.history, self.anchors)
        if self.model.follows_shown_frames and chunk.compensated is None:
            self._decode(session)

    def _new_session(self, seed: int, prompt: TextStates, params: SamplingParams | None = None) -> Session:
        return Session(seed=seed, prompt=prompt, params=params or SamplingParams(self.sampling))

    def _add(self, session_id: str, session: Session) -> Session:
        self.commit()
        self._slots.add(session_id, session)
        self.runner.caches.clear(session.slot)
        return session


def _rounded_video(latents: Tensor, latent_shape: tuple[int, int, int]) -> list[Tensor]:
    """Latents of a video prompt `(T, C, h, w)`, one float16 tensor a chunk on the CPU.

    They are rounded so that a snapshot holds exactly what the run used. Raises ValueError for another shape than
    `latent_shape` (C, h, w), for more than `MAX_PROMPT_CHUNKS` chunks, and for values that float16 cannot hold.
    """
    if tuple(latents.shape[1:]) != latent_shape:
        raise ValueError(
            f"the video prompt's latents have shape {tuple(latents.shape)}: this world needs (T, C, h, w) "
            f"with (C, h, w) = {latent_shape}"
        )
    if not 1 <= len(latents) <= MAX_PROMPT_CHUNKS:
        raise ValueError(f"the video prompt has {len(latents)} chunks: use 1 to {MAX_PROMPT_CHUNKS}")
    rounded = latents.half().cpu()
    if not rounded.isfinite().all():
        raise ValueError("the video prompt contains NaN or infinity: its latents must be finite in float16")
    return [*rounded]

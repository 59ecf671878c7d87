"""The world engine: draws chunk after chunk while keys and instructions arrive.

`WorldEngine` runs many sessions in one forward, each in its own cache slot, joining and leaving at chunk
boundaries. `World` is one session with text encoder and decoder, for notebooks and the command line:

    world = World.load("nano")
    world.reset(prompt="snowy forest at night", seed=7)
    frames = world.step(Control(keys={"w"}))          # (4, H, W, 3) uint8
    world.instruct("make it rain")
    state = world.snapshot(); other.restore(state)

A KV cache is only a cache: `restore` rebuilds it from the latents in a snapshot.
"""

from __future__ import annotations

import itertools
import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gamegen.controls import FRAMES_PER_CHUNK, OPERATION_SIZE
from gamegen.controls import Control as PlayerControl
from gamegen.device import one_thread
from gamegen.flow import add_noise, counter_noise, predict_x0, schedule
from gamegen.models.checkpoint import Model
from gamegen.models.frame_pass import CompiledFramePass, FrameInputs, build_frame_pass, temporal_attentions
from gamegen.models.instructnet import Controls
from gamegen.models.latent_decoder import LatentDecoder
from gamegen.models.msdit import Previous, Text
from gamegen.models.ring_cache import Caches, RingCache
from gamegen.models.text import TextEncoder, TextStates, load_text_encoder
from gamegen.models.vae import SPATIAL_FACTOR, from_pixels
from gamegen.models.variants import Variant

_KEPT_TEXTS = 4
"""Batches of prompts or instructions of which an engine keeps what it has computed."""
PERSPECTIVES = {"first": "first-person", "third": "third-person"}


@dataclass(frozen=True)
class EngineConfig:
    """`max_sessions` cache slots are allocated at the start."""

    max_sessions: int = 4


@dataclass(frozen=True)
class WorldSnapshot:
    """All there is to know of a session at a chunk boundary.

    `latents` float16 `(n, C, h, w)`: the last n of `version` chunks made, enough that everything cached depends
    on nothing older; `operations` float32 `(n, 4, O)`; `words` gives for each the index into `instructions` of
    the instruction then in force (-1 for none; the last entry is the one in force now). `anchors` are the first
    chunks of the stream, as (latent, operations, words).
    """

    seed: int
    version: int
    prompt: TextStates
    instructions: list[TextStates]
    latents: np.ndarray
    operations: np.ndarray
    words: list[int]
    anchors: list[tuple[np.ndarray, np.ndarray, int]]

    def to_bytes(self) -> bytes:
        """Serialised for another replica of the same trust domain."""
        return pickle.dumps(self)

    @staticmethod
    def from_bytes(data: bytes) -> WorldSnapshot:
        """The inverse of `to_bytes`; only for bytes this application made."""
        snapshot = pickle.loads(data)
        assert isinstance(snapshot, WorldSnapshot)
        return snapshot


@dataclass
class _Session:
    slot: int
    seed: int
    prompt: TextStates
    version: int = 0
    instructions: list[TextStates] = field(default_factory=list)
    current_words: int = -1
    latents: list[Tensor] = field(default_factory=list)
    operations: list[np.ndarray] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    anchors: list[tuple[Tensor, np.ndarray, int]] = field(default_factory=list)

    def remember(self, latent: Tensor, operations: np.ndarray, words: int, keep: int, anchors: int) -> None:
        """Appends a finished chunk and forgets what no cache entry depends on any more."""
        if len(self.anchors) < anchors:
            self.anchors.append((latent, operations, words))
        self.latents.append(latent)
        self.operations.append(operations)
        self.words.append(words)
        self.version += 1
        del self.latents[:-keep], self.operations[:-keep], self.words[:-keep]


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
        self._sessions: dict[str, _Session] = {}
        self._uncommitted: list[_Drawn] = []
        self._texts: OrderedDict[tuple[int, ...], tuple[Sequence[TextStates | None], Text]] = OrderedDict()
        attentions = temporal_attentions(self.foundation, self.instructnet)
        self._caches = Caches([self._ring(attention) for attention in attentions])
        self.frame_pass: Callable[..., Tensor] = build_frame_pass(
            self.foundation, self.instructnet, self.size, model.may_compile, model.int8_layers
        )
        self._is_compiled = isinstance(self.frame_pass, CompiledFramePass)
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
        first_latent: Tensor | None = None,
    ) -> None:
        """Starts a session; `first_latent` `(C, h, w)`, normalised, is a starting image (see `encode_image`).

        Raises RuntimeError when every slot is taken.
        """
        if session_id in self._sessions:
            self.close(session_id)
        session = self._take_slot(session_id, _Session(-1, seed, prompt))
        if first_latent is not None:
            self._commit_known(session, first_latent.half().float().cpu(), idle_operations(), -1)

    def instruct(self, session_id: str, instruction: TextStates | None) -> None:
        """Puts an instruction in force from the next chunk on; None lifts it."""
        session = self._session(session_id)
        if instruction is None:
            session.current_words = -1
            return
        session.instructions.append(instruction)
        session.current_words = len(session.instructions) - 1

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
        # By slot: neighbours in the caches are read without copies.
        in_order = sorted(sessions, key=lambda sid: sessions[sid].slot)
        beginning = [sid for sid in in_order if sessions[sid].version == 0]
        continuing = [sid for sid in in_order if sid not in beginning]
        with one_thread(self._is_compiled):
            for group, first in ((beginning, True), (continuing, False)):
                if group:
                    self._step_group(
                        [sessions[sid] for sid in group], [operations[sid] for sid in group], first
                    )
        return {sid: session.latents[-1].half().numpy() for sid, session in sessions.items()}

    def _step_group(self, sessions: list[_Session], operations: list[np.ndarray], first: bool) -> None:
        words = [session.current_words for session in sessions]
        inputs = self._inputs(sessions, operations, words)
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
        latents = x[:, 0].half().float()
        self._uncommitted.append(self._drawn(inputs, sessions, latents))
        for session, latent, operation, word in zip(sessions, latents.cpu(), operations, words, strict=True):
            session.remember(latent, operation, word, self.history, self.anchors)

    def _inputs(
        self, sessions: list[_Session], operations: list[np.ndarray], words: list[int]
    ) -> FrameInputs:
        device = self.model.device
        said = [None if w < 0 else s.instructions[w] for s, w in zip(sessions, words, strict=True)]
        B = len(sessions)
        controls = Controls(
            torch.from_numpy(np.stack(operations)).float()[:, None].to(device),
            torch.ones(B, 1, dtype=torch.bool, device=device),
            self._text(said),
            torch.tensor([[float(t is not None)] for t in said], device=device),
        )
        prompt = self._text([s.prompt for s in sessions])
        level = self.sampling.context_level
        has_previous = torch.tensor([[bool(s.latents)] for s in sessions], device=device)
        zero = torch.zeros(self.latent_shape)
        previous = torch.stack([s.latents[-1] if s.latents else zero for s in sessions]).to(device)[:, None]
        noisy = add_noise(
            previous, self._noise(sessions, "previous"), torch.full((B, 1), level, device=device)
        )
        self._caches.select([s.slot for s in sessions])
        before = Previous(previous, noisy, torch.where(has_previous, level, -1.0))
        return FrameInputs(prompt, controls, before)

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
        return self.frame_pass(x, level_BT, inputs, self._caches)

    def _drawn(self, inputs: FrameInputs, sessions: list[_Session], latents: Tensor) -> _Drawn:
        """Finished latents as temporal attention is to see them: at the history level."""
        level_BT = torch.full((len(sessions), 1), self.sampling.history_level, device=self.model.device)
        x = add_noise(latents[:, None], self._noise(sessions, "commit"), level_BT)
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

    def _noise(self, sessions: list[_Session], purpose: str) -> Tensor:
        noise = [counter_noise(s.seed, s.version, purpose, self.latent_shape) for s in sessions]
        return torch.stack(noise)[:, None].to(self.model.device)

    def snapshot(self, session_id: str) -> WorldSnapshot:
        """The session at its last chunk boundary."""
        s = self._session(session_id)
        n = len(s.latents)
        latents = (
            torch.stack(s.latents).half().numpy() if n else np.zeros((0, *self.latent_shape), np.float16)
        )
        operations = (
            np.stack(s.operations) if n else np.zeros((0, FRAMES_PER_CHUNK, OPERATION_SIZE), np.float32)
        )
        return WorldSnapshot(
            s.seed,
            s.version,
            s.prompt,
            [*s.instructions],
            latents,
            operations,
            [*s.words, s.current_words],
            [(latent.half().numpy(), operation, word) for latent, operation, word in s.anchors],
        )

    @torch.inference_mode()
    def restore(self, session_id: str, snapshot: WorldSnapshot) -> None:
        """Takes a session over: replays the cached passes of its snapshot, so it continues as if never moved."""
        self.close(session_id)
        session = _Session(-1, snapshot.seed, snapshot.prompt, instructions=[*snapshot.instructions])
        self._take_slot(session_id, session)
        latents = [torch.from_numpy(latent).float() for latent in snapshot.latents]
        oldest = snapshot.version - len(latents)
        if oldest:
            for latent, operations, word in snapshot.anchors[: oldest + 1]:
                self._commit_known(session, torch.from_numpy(latent).float(), operations, word)
            # The oldest latent is only the predecessor of the next; what came before it no cache entry needs.
            self._caches.set_length(session.slot, oldest + 1)
            session.version = oldest + 1
            session.latents, session.operations = [latents[0]], [snapshot.operations[0]]
            session.words = [snapshot.words[0]]
        for i in range(1 if oldest else 0, len(latents)):
            self._commit_known(session, latents[i], snapshot.operations[i], snapshot.words[i])
        session.current_words = snapshot.words[-1]

    def _commit_known(self, session: _Session, latent: Tensor, operations: np.ndarray, words: int) -> None:
        inputs = self._inputs([session], [operations], [words])
        self._uncommitted.append(self._drawn(inputs, [session], latent[None].to(self.model.device)))
        self.commit()
        session.remember(latent, operations, words, self.history, self.anchors)

    def _take_slot(self, session_id: str, session: _Session) -> _Session:
        self.commit()
        if not self._free:
            raise RuntimeError(f"all {self.max_sessions} session slots are taken: close one or add a replica")
        session.slot = self._free.pop(0)
        self._caches.clear(session.slot)
        self._sessions[session_id] = session
        return session

    def _session(self, session_id: str) -> _Session:
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


class World:
    """One playable world: engine, text encoder and streaming decoder together."""

    SESSION = "world"

    def __init__(self, engine: WorldEngine, text_encoder: TextEncoder) -> None:
        self.engine = engine
        self.text_encoder = text_encoder
        self.decoder = LatentDecoder(engine.model)
        self._memory: Tensor | None = None

    @classmethod
    def load(cls, name_or_path: str | Path = "nano", device: str | None = None) -> World:
        """Loads a checkpoint; raises CheckpointError."""
        engine = WorldEngine.load(name_or_path, device, EngineConfig(max_sessions=1))
        return cls(engine, load_text_encoder(engine.model.config.text_encoder))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames in pixels."""
        return self.engine.model.config.width, self.engine.model.config.height

    def reset(
        self, prompt: str, seed: int = 0, perspective: str = "first", image: np.ndarray | None = None
    ) -> None:
        """Begins a new world; `image` uint8 `(H, W, 3)` of the world's size is what it begins with.

        Raises ValueError for an unknown perspective, a prompt of too many tokens or an image of another size.
        """
        states = self.text_encoder.encode([compose_prompt(prompt, perspective)])[0]
        if image is not None:
            check_image(image, self.size)
        first = None if image is None else encode_image(self.engine.model, image)
        self.engine.open(self.SESSION, states, seed, first)
        # Rounded as every latent that is kept, so that a restored world shows the same.
        self._memory = None if first is None else first.half()

    def instruct(self, text: str | None) -> None:
        """Says what should change, from the next chunk on; None takes it back."""
        self.engine.instruct(self.SESSION, self.text_encoder.encode([text])[0] if text else None)

    def step(self, control: PlayerControl) -> np.ndarray:
        """The next chunk, uint8 `(4, H, W, 3)`."""
        return self.step_operations(control.operations())

    def step_operations(self, operations: np.ndarray) -> np.ndarray:
        """The next chunk under per-frame operation vectors `(4, OPERATION_SIZE)`, uint8 `(4, H, W, 3)`."""
        latent = torch.from_numpy(self.engine.step({self.SESSION: operations})[self.SESSION])
        frames = self.decoder.decode([latent], [self._memory])[0].numpy()
        self._memory = latent
        return frames

    def snapshot(self) -> WorldSnapshot:
        """The world at this chunk boundary; see `WorldSnapshot`."""
        return self.engine.snapshot(self.SESSION)

    def restore(self, snapshot: WorldSnapshot) -> None:
        """Continues from a snapshot, of this world or another."""
        self.engine.restore(self.SESSION, snapshot)
        self._memory = torch.from_numpy(snapshot.latents[-1]) if len(snapshot.latents) else None


def idle_operations() -> np.ndarray:
    """The operations of nobody touching anything, float32 `(4, OPERATION_SIZE)`."""
    return np.zeros((FRAMES_PER_CHUNK, OPERATION_SIZE), np.float32)


def compose_prompt(prompt: str, perspective: str) -> str:
    """The prompt with its perspective in front, in the words training used."""
    if perspective not in PERSPECTIVES:
        raise ValueError(f"perspective = {perspective!r}: use one of {', '.join(PERSPECTIVES)}")
    return f"{PERSPECTIVES[perspective]}, {prompt.strip()}"


def check_image(image: np.ndarray, size: tuple[int, int]) -> None:
    """Raises ValueError unless the image, uint8 `(H, W, 3)`, has the world's (width, height)."""
    if image.shape != (size[1], size[0], 3):
        raise ValueError(f"the image is {image.shape[1]}x{image.shape[0]}: resize it to {size[0]}x{size[1]}")


@torch.inference_mode()
def encode_image(model: Model, image: np.ndarray) -> Tensor:
    """A starting image, uint8 `(H, W, 3)`, as a normalised latent `(C, h, w)`: one chunk of four equal frames."""
    frames = from_pixels(torch.from_numpy(image)[None].expand(FRAMES_PER_CHUNK, -1, -1, -1)).to(model.device)
    return model.normalise(model.vae.encode(frames[None])[0, 0]).cpu()

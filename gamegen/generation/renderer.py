"""Renders clips in batches, one denoising step at a time.

A clip may be stopped after any step and resumed from its checkpoint, in another process, beside other clips: on a CPU
its frames are bit-identical for the same `rows`, number of threads and kind of CPU. Matrix products of other shapes
are summed in another order, so every pass has one fixed shape.
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gamegen.controls import Control
from gamegen.engine.conditioning import NO_INSTRUCTION
from gamegen.engine.engine import EngineConfig, WorldEngine
from gamegen.engine.snapshot import PastChunk, WorldSnapshot
from gamegen.engine.state import SamplingParams
from gamegen.engine.variants import Variant
from gamegen.generation.clip_checkpoint import read_checkpoints
from gamegen.generation.decode import decode_chunks
from gamegen.generation.drawing import Drawing
from gamegen.generation.render_plan import RenderPlan
from gamegen.generation.spec import ClipSpec, ClipStart
from gamegen.media.first_frames import read_first_frames
from gamegen.media.kinds import is_image
from gamegen.models.model import Model
from gamegen.models.text import TextStates

MAX_BATCH = 8
"""Largest number of drawings in one step."""
ROWS = (1, 2, 4, 8)
"""Allowed row counts of a pass."""
_ROWS_ON_ACCELERATORS = 4


@dataclass(frozen=True)
class ClipConfig:
    """Limits of a renderer, and the row count of its passes.

    There are caches for `max_drawings` of each of `max_sizes` sizes. `rows` is one of `ROWS`; None takes 1 on a CPU,
    where the clips of a batch then take their steps one after the other, and 4 elsewhere. With other row counts the
    ends of tensors would not fill a CPU's vectors and be rounded differently, so that a clip's frames would depend on
    its place in the batch.
    """

    rows: int | None = None
    max_drawings: int = MAX_BATCH
    max_sizes: int = 2

    def __post_init__(self) -> None:
        if self.rows not in (None, *ROWS):
            raise ValueError(f"rows = {self.rows}: must be one of {', '.join(map(str, ROWS))}")

    def rows_on(self, device: torch.device) -> int:
        """Rows of a pass on a device."""
        if self.rows:
            return self.rows
        return _ROWS_ON_ACCELERATORS if device.type != "cpu" and self.max_drawings > 1 else 1


class ClipRenderer:
    """Renders one model's clips; not thread-safe."""

    def __init__(self, model: Model, config: ClipConfig = ClipConfig()) -> None:
        self.model = model
        self._config = config
        self._engines: OrderedDict[tuple[int, int], WorldEngine] = OrderedDict()
        self._open: dict[str, tuple[int, int]] = {}
        self._ids = map(str, itertools.count())
        # Compiled now, so that the first clip does not wait for it.
        self.engine((model.config.width, model.config.height))

    @classmethod
    def load(
        cls,
        name_or_path: str | Path = "nano",
        device: str | None = None,
        config: ClipConfig = ClipConfig(),
    ) -> ClipRenderer:
        """A renderer for a checkpoint or a variant of one; raises CheckpointError for a missing or damaged one."""
        return cls(Variant.parse(str(name_or_path)).load(device), config)

    def engine(self, size: tuple[int, int]) -> WorldEngine:
        """The engine for clips of (width, height) pixels.

        Raises RuntimeError while clips of `max_sizes` other sizes are unfinished.
        """
        if size not in self._engines:
            self._make_room()
            config = EngineConfig(self._config.max_drawings, self._config.rows_on(self.model.device))
            self._engines[size] = WorldEngine(self.model, config, size)
        self._engines.move_to_end(size)
        return self._engines[size]

    def _make_room(self) -> None:
        idle = [size for size in self._engines if size not in self._open.values()]
        if len(self._engines) < self._config.max_sizes:
            return
        if not idle:
            sizes = ", ".join(f"{width}x{height}" for width, height in self._engines)
            raise RuntimeError(f"clips of {sizes} are unfinished: finish those of one size first")
        del self._engines[idle[0]]

    def plan(self, spec: ClipSpec) -> RenderPlan:
        """The chunks and steps of a clip with this model."""
        return RenderPlan.of(spec, self.model.config.sampling)

    def first_latents(self, spec: ClipSpec, data: bytes) -> Tensor | None:
        """Latents `(n, C, h, w)` of the image's or source video's file that a clip starts from.

        Of a video they are its last chunks, as many as the model's history holds. Raises ValueError for a file that
        cannot be read, or is a video where the spec has an image, or the other way round.
        """
        if (spec.start is ClipStart.IMAGE) != is_image(data):
            raise ValueError(
                "the source is an image: give it as the image"
                if is_image(data)
                else "the image is not a PNG, JPEG or WebP file: give a video as the source"
            )
        return self.model.encode(read_first_frames(data, spec.size, self.engine(spec.size).history))

    def begin(
        self,
        spec: ClipSpec,
        prompt: TextStates,
        negative: TextStates | None = None,
        first: Tensor | None = None,
        controls: Sequence[Control] = (),
    ) -> Drawing:
        """A clip before its first step.

        `first` are the `first_latents` of a clip that starts from an image or a source video. Guidance leads from the
        `negative` text to the prompt; a guidance scale of 1 is none, and ignores `negative`. Raises ValueError for
        first latents that do not belong to the spec, and RuntimeError while `max_drawings` clips are unfinished.
        """
        plan = self.plan(spec)
        if plan.has_past != (first is not None):
            raise ValueError(
                f"a clip that starts from {spec.start} {'needs' if plan.has_past else 'takes no'} first latents"
            )
        # Rounded to half precision: a checkpoint then holds exactly the values that this run uses.
        given = [] if first is None else [*first.half().cpu()]
        if spec.start is ClipStart.VIDEO:
            given = given[-self.engine(spec.size).history :]
        num_before = len(given) if spec.start is ClipStart.VIDEO else 0
        if len(given) - num_before != plan.num_given:
            raise ValueError(f"{len(given)} first latents: an image has {plan.num_given}")
        drawing = Drawing(
            session_id=next(self._ids), spec=spec, plan=plan, num_before=num_before, controls=controls
        )
        if len(given) - num_before == plan.num_chunks:
            for latent in given:
                drawing.finished.append(latent)
            return drawing
        past = [PastChunk(latent, drawing.conditioning(i)) for i, latent in enumerate(given)]
        return self._opened(drawing, past, past[: self.engine(spec.size).anchors], prompt, negative)

    def resume(
        self,
        spec: ClipSpec,
        prompt: TextStates,
        negative: TextStates | None,
        checkpoint: bytes,
        read: Callable[[str], bytes] | None = None,
        controls: Sequence[Control] = (),
    ) -> Drawing:
        """A clip from its checkpoint; its texts and controls are given again.

        `read` returns an earlier checkpoint by its name. The chunks that the next one depends on are passed through the
        model once. Raises ValueError for a checkpoint that cannot be read, or is of another clip or model, and
        RuntimeError as `begin`.
        """
        parts, plan = read_checkpoints(checkpoint, read), self.plan(spec)
        kept = parts[-1]
        if (kept.content_hash, kept.seed, kept.sampling) != (spec.content_hash, spec.seed, plan.sampling):
            raise ValueError("the checkpoint is of another clip or another model: start the clip again")
        if not plan.num_given <= kept.num_finished - kept.num_before <= plan.num_chunks:
            raise ValueError(f"the checkpoint is damaged: {kept.num_finished} chunks of {plan.num_chunks}")
        drawing = Drawing(
            session_id=next(self._ids),
            spec=spec,
            plan=plan,
            num_before=kept.num_before,
            controls=controls,
            shown=kept.shown,
            memory=kept.memory,
            num_stored=kept.num_earlier,
            stored=kept.earlier,
        )
        for part in parts:
            for latent, compensated in itertools.zip_longest(part.latents, part.compensated):
                drawing.finished.append(latent, compensated)
        if drawing.is_done:
            return drawing
        count, engine = len(drawing.finished), self.engine(spec.size)
        past = drawing.past(max(0, count - engine.history), count)
        anchors = drawing.past(0, min(engine.anchors, count))
        drawing = self._opened(drawing, past, anchors, prompt, negative)
        assert drawing.chunk is not None
        x = kept.x.to(self.model.device)
        if x.shape != drawing.chunk.x.shape or not 0 <= kept.steps_done < drawing.chunk.num_steps:
            self.close(drawing)
            raise ValueError("the checkpoint is damaged: its unfinished chunk does not fit this model")
        drawing.chunk = replace(drawing.chunk, x=x, steps_done=kept.steps_done)
        return drawing

    def _opened(
        self,
        drawing: Drawing,
        past: list[PastChunk],
        anchors: list[PastChunk],
        prompt: TextStates,
        negative: TextStates | None,
    ) -> Drawing:
        """Opens an engine session whose last chunks are `past` and its first `anchors`, and starts the next chunk."""
        size, num_known = drawing.spec.size, len(drawing.finished)
        engine = self.engine(size)
        snapshot = WorldSnapshot(
            seed=drawing.spec.seed,
            version=num_known or len(past),
            prompt=prompt,
            chunks=past,
            anchors=anchors,
            upcoming=[NO_INSTRUCTION],
            shown=drawing.shown,
            memory=drawing.memory,
        )
        engine.restore(drawing.session_id, snapshot, SamplingParams(drawing.plan.sampling, negative))
        if not num_known:
            self._keep(engine, drawing, len(past))
        self._open[drawing.session_id] = size
        self._begin_chunk(engine, drawing)
        return drawing

    def step(self, drawings: Sequence[Drawing]) -> float:
        """Takes one denoising step of each clip; returns the seconds that took.

        At most `MAX_BATCH` unfinished clips of one `batch_key`, each at its own step; raises ValueError for others.
        """
        began = time.perf_counter()
        chunks = self._chunks(drawings)
        engine = self.engine(drawings[0].spec.size)
        chunks = engine.denoise(chunks)
        latents = engine.finish({sid: chunk for sid, chunk in chunks.items() if chunk.is_done})
        for drawing in drawings:
            drawing.chunk = chunks[drawing.session_id]
            if drawing.session_id in latents:
                self._keep(engine, drawing, 1)
                self._next_chunk(engine, drawing)
        if self.model.device.type != "cpu":
            torch.accelerator.synchronize(self.model.device)
        return time.perf_counter() - began

    def _chunks(self, drawings: Sequence[Drawing]) -> dict:
        keys = {drawing.spec.batch_key for drawing in drawings}
        if len(keys) != 1 or len(drawings) > MAX_BATCH:
            raise ValueError(
                f"{len(drawings)} clips of {len(keys)} batch keys: a step takes 1 to {MAX_BATCH} clips of one key"
            )
        chunks = {drawing.session_id: drawing.chunk for drawing in drawings}
        if len(chunks) < len(drawings) or None in chunks.values():
            raise ValueError("cannot step: a clip is finished, closed or listed twice")
        return chunks

    def _next_chunk(self, engine: WorldEngine, drawing: Drawing) -> None:
        """Starts the next chunk, or closes a clip that is done."""
        if drawing.is_done:
            self.close(drawing)
        else:
            self._begin_chunk(engine, drawing)

    def _keep(self, engine: WorldEngine, drawing: Drawing, num_chunks: int) -> None:
        """Keeps the engine's last chunks, and what they and the next one are generated from besides."""
        state = engine.snapshot(drawing.session_id)
        for chunk in state.chunks[len(state.chunks) - num_chunks :]:
            drawing.finished.append(chunk.latent, chunk.compensated)
        if self.model.follows_shown_frames:
            drawing.shown, drawing.memory = state.shown, state.memory

    def _begin_chunk(self, engine: WorldEngine, drawing: Drawing) -> None:
        operations = drawing.conditioning(len(drawing.finished)).operations
        drawing.chunk = engine.begin({drawing.session_id: operations})[drawing.session_id]

    def decode(self, drawing: Drawing) -> Iterator[np.ndarray]:
        """Frames, uint8 `(4, H, W, 3)`, of each chunk of a clip that is done.

        It only reads the model's weights, so another thread may iterate it while this one steps other clips.
        """
        yield from decode_chunks(self.model, drawing.finished.each_latent(), drawing.num_before)

    def close(self, drawing: Drawing) -> None:
        """Frees the slot of a clip that is cancelled, or will be resumed elsewhere.

        A clip that is done is closed already. Finished latents stay; it can take no further step.
        """
        drawing.chunk = None
        size = self._open.pop(drawing.session_id, None)
        if size:
            self._engines[size].close(drawing.session_id)

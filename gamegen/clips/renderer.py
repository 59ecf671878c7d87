"""Draws clips in batches, one denoising step at a time.

A clip may be put aside after any step and taken up again from its checkpoint, in another process, beside other clips:
on a CPU it comes out the same to the last bit, as long as `rows`, the number of threads and the kind of CPU are the
same. Products of matrices of other shapes are summed in another order, so every pass has one fixed shape.
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gamegen.clips.checkpoint import ClipCheckpoint
from gamegen.clips.drawing import Drawing
from gamegen.clips.plan import ClipPlan
from gamegen.controls import Control
from gamegen.engine import EngineConfig, WorldEngine
from gamegen.first_frames import is_image, read_first_frames
from gamegen.models.checkpoint import Model
from gamegen.models.text import TextStates
from gamegen.models.variants import Variant
from gamegen.session import Manner
from gamegen.snapshot import SILENCE, WorldSnapshot
from gamegen.videos.order import Order

MAX_BATCH = 8
"""Drawings that take a step together."""
ROWS = (1, 2, 4, 8)
"""Rows that a pass may have."""
_ROWS_ON_ACCELERATORS = 4


@dataclass(frozen=True)
class ClipConfig:
    """How many clips there may be at a time, and how they are drawn.

    There are caches for `max_drawings` of each of `max_sizes` sizes. Every pass has so many `rows`: None takes 1 on a
    CPU, where the clips of a batch then take their steps one after the other, and 4 elsewhere. Others than `ROWS` are
    refused: the ends of tensors that are no multiple of a CPU's vectors are rounded otherwise, so that a clip's place
    in its batch would count. One row has one place, whatever the size.
    """

    rows: int | None = None
    max_drawings: int = MAX_BATCH
    max_sizes: int = 2

    def __post_init__(self) -> None:
        if self.rows not in (None, *ROWS):
            raise ValueError(f"rows = {self.rows}: a pass has {', '.join(map(str, ROWS))}")

    def rows_on(self, device: torch.device) -> int:
        """The rows of a pass there."""
        if self.rows:
            return self.rows
        return _ROWS_ON_ACCELERATORS if device.type != "cpu" and self.max_drawings > 1 else 1


class ClipRenderer:
    """One model's clips, for one thread at a time."""

    def __init__(self, model: Model, config: ClipConfig = ClipConfig()) -> None:
        self.model = model
        self._config = config
        self._engines: OrderedDict[tuple[int, int], WorldEngine] = OrderedDict()
        self._open: dict[str, tuple[int, int]] = {}
        self._ids = map(str, itertools.count())
        # At once: who waits for the first clip need not wait for it.
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
        """What draws clips of (width, height) pixels.

        Raises RuntimeError if clips of `max_sizes` other sizes are on their way.
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
            raise RuntimeError(f"clips of {sizes} are on their way: finish those of one size first")
        del self._engines[idle[0]]

    def plan(self, order: Order) -> ClipPlan:
        """How this model draws an order; raises ValueError for one that is beyond the limits."""
        return ClipPlan.of(order, self.model.config.sampling)

    def first_latents(self, order: Order, data: bytes) -> Tensor | None:
        """What an order goes on from: the latents `(n, C, h, w)` of its image's or source video's file.

        Of a video they are its last chunks, as many as the model remembers. Raises ValueError, which says what to do,
        for a file that cannot be read, or is the other of the two.
        """
        if bool(order.image_key) != is_image(data):
            raise ValueError(
                "the source is a picture: give it as the image"
                if is_image(data)
                else "the image is no PNG, JPEG or WebP file: give a video as the source"
            )
        size = order.width, order.height
        return self.model.encode(read_first_frames(data, size, self.engine(size).history))

    def begin(
        self,
        order: Order,
        prompt: TextStates,
        negative: TextStates | None = None,
        first: Tensor | None = None,
        controls: Sequence[Control] = (),
    ) -> Drawing:
        """A clip before its first step.

        `first` are the `first_latents` of an order with an image, which is then the clip's first chunk, or with a
        source video, after whose end the clip begins. Guidance leads from what `negative` says to what the prompt says;
        with a guidance scale of 1 there is none, and `negative` is not looked at. Raises ValueError for an order that
        is beyond the limits, and RuntimeError if `max_drawings` are on their way.
        """
        plan = self.plan(order)
        if plan.goes_on != (first is not None):
            raise ValueError(
                "first latents belong to an order with an image or a source video, and to no other"
            )
        # Rounded as all that is kept: a checkpoint holds exactly what the run used.
        finished = [] if first is None else [*first.half().cpu()]
        num_before = len(finished) if order.source_key else 0
        if len(finished) - num_before != plan.num_given:
            raise ValueError(f"{len(finished)} first latents: an image is {plan.num_given}")
        drawing = Drawing(next(self._ids), order, plan, finished, num_before, controls)
        return self._opened(drawing, prompt, negative)

    def resume(
        self,
        order: Order,
        prompt: TextStates,
        negative: TextStates | None,
        checkpoint: bytes,
        controls: Sequence[Control] = (),
    ) -> Drawing:
        """A clip as its checkpoint says; what it was drawn from is given again.

        The chunks it has are passed through the model once. Raises ValueError for a checkpoint that cannot be read, or
        is of another order or model, and RuntimeError as `begin`.
        """
        kept, plan = ClipCheckpoint.from_bytes(checkpoint), self.plan(order)
        if kept.order != order.content_hash or kept.sampling != plan.sampling:
            raise ValueError("the checkpoint is of another order, or of another model: begin the clip anew")
        if not plan.num_given <= len(kept.latents) - kept.num_before <= plan.num_chunks:
            raise ValueError(f"the checkpoint is damaged: {len(kept.latents)} chunks of {plan.num_chunks}")
        drawing = Drawing(next(self._ids), order, plan, [*kept.latents], kept.num_before, controls)
        drawing = self._opened(drawing, prompt, negative)
        if drawing.chunk:
            x = kept.x.to(self.model.device)
            if x.shape != drawing.chunk.x.shape or not 0 <= kept.steps_done < drawing.chunk.num_steps:
                self.close(drawing)
                raise ValueError("the checkpoint is damaged: its chunk on the way is not one of this model")
            drawing.chunk = replace(drawing.chunk, x=x, steps_done=kept.steps_done)
        return drawing

    def _opened(self, drawing: Drawing, prompt: TextStates, negative: TextStates | None) -> Drawing:
        """With a session that remembers its finished chunks, and the next one begun."""
        if drawing.is_done:
            return drawing
        size = drawing.order.width, drawing.order.height
        engine, past = self.engine(size), drawing.past()
        snapshot = WorldSnapshot(
            drawing.order.seed,
            len(past),
            prompt,
            past[-engine.history :],
            past[: engine.anchors],
            [SILENCE],
        )
        engine.restore(drawing.session_id, snapshot, Manner(drawing.plan.sampling, negative))
        self._open[drawing.session_id] = size
        self._begin_chunk(engine, drawing)
        return drawing

    def step(self, drawings: Sequence[Drawing]) -> float:
        """Takes each clip one denoising step further; returns how long that took, in seconds.

        They are clips on their way of one `batch_key`, at most `MAX_BATCH`, each as far as it happens to be. Raises
        ValueError for others.
        """
        began = time.perf_counter()
        chunks = self._chunks(drawings)
        engine = self.engine((drawings[0].order.width, drawings[0].order.height))
        chunks = engine.denoise(chunks)
        latents = engine.finish({sid: chunk for sid, chunk in chunks.items() if chunk.is_drawn})
        for drawing in drawings:
            drawing.chunk = chunks[drawing.session_id]
            if drawing.session_id in latents:
                drawing.finished.append(torch.from_numpy(latents[drawing.session_id]))
                self._go_on(engine, drawing)
        if self.model.device.type != "cpu":
            torch.accelerator.synchronize(self.model.device)
        return time.perf_counter() - began

    def _chunks(self, drawings: Sequence[Drawing]) -> dict:
        keys = {drawing.order.batch_key for drawing in drawings}
        if len(keys) != 1 or len(drawings) > MAX_BATCH:
            raise ValueError(
                f"{len(drawings)} clips of {len(keys)} batch keys: 1 to {MAX_BATCH} of one key take a step together"
            )
        chunks = {drawing.session_id: drawing.chunk for drawing in drawings}
        if len(chunks) < len(drawings) or None in chunks.values():
            raise ValueError("a clip that is finished or closed, or is there twice, takes no step")
        return chunks

    def _go_on(self, engine: WorldEngine, drawing: Drawing) -> None:
        """To the next chunk, if there is one."""
        if drawing.is_done:
            self.close(drawing)
        else:
            self._begin_chunk(engine, drawing)

    def _begin_chunk(self, engine: WorldEngine, drawing: Drawing) -> None:
        operations = drawing.steering(len(drawing.finished)).operations
        drawing.chunk = engine.begin({drawing.session_id: operations})[drawing.session_id]

    def close(self, drawing: Drawing) -> None:
        """Frees what a clip takes: one that nobody wants any more, or is to be resumed elsewhere.

        A clip that is done is closed already. What is drawn of it stays, but it takes no step any more.
        """
        drawing.chunk = None
        size = self._open.pop(drawing.session_id, None)
        if size:
            self._engines[size].close(drawing.session_id)

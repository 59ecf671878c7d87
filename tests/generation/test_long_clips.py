"""Clips of a minute: they resume from parts of themselves, and hold no more in memory than short ones."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest
import torch

from gamegen.engine.memory_bytes import memory_to_bytes
from gamegen.generation.clip_checkpoint import ClipCheckpoint
from gamegen.generation.drawing import CHUNKS_OF_A_PART, Drawing
from gamegen.generation.finished_chunks import FinishedChunks
from gamegen.generation.renderer import ClipConfig, ClipRenderer
from gamegen.generation.spec import ClipSpec, ClipStart
from gamegen.models.motion_compensation import Compensated
from gamegen.models.view_memory import ViewMemory
from tests.engine.test_world import random_model, words
from tests.generation.specs import a_clip
from tests.picture_samples import moving_square, mp4_bytes

MINUTE = 60 * 24


def renderer_of(moves: bool) -> ClipRenderer:
    return ClipRenderer(random_model(moves=moves), ClipConfig(max_drawings=2, max_sizes=1))


class Store:
    """Checkpoints by name, as a worker keeps them: those whose place is taken are removed."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.newest, self._loose = "", ""
        self.largest_bytes = 0

    def save(self, drawing: Drawing) -> None:
        made = drawing.checkpoint()
        name = f"{made.step}-{made.num_finished}"
        self.objects[name] = made.data
        self.objects.pop(self._loose, None)
        self.largest_bytes = max(self.largest_bytes, len(made.data))
        self.noted(drawing, name, made.num_finished)

    def noted(self, drawing: Drawing, name: str, num_finished: int) -> None:
        self.newest = name
        self._loose = "" if drawing.note_stored(name, num_finished) else name

    def resumed(self, renderer: ClipRenderer, spec: ClipSpec) -> Drawing:
        read = self.objects.__getitem__
        drawing = renderer.resume(spec, words(1), None, read(self.newest), read)
        self.noted(drawing, self.newest, len(drawing.finished))
        return drawing


def draw(renderer: ClipRenderer, drawing: Drawing, store: Store, every: int, until: int = 10**9) -> None:
    for step in itertools.count(1):
        if drawing.is_done or drawing.step >= until:
            return
        renderer.step([drawing])
        if step % every == 0 and not drawing.is_done:
            store.save(drawing)


@pytest.mark.parametrize(("num_frames", "moves"), [(MINUTE - 3, False), (160, True)])
def test_a_clip_that_was_killed_twice_equals_the_undisturbed_one(num_frames, moves):
    """Each time it goes on in another renderer, from the checkpoints alone."""
    renderer, spec = renderer_of(moves), a_clip(num_frames=num_frames, num_steps=1)
    whole = renderer.begin(spec, words(1))
    while not whole.is_done:
        renderer.step([whole])
    store = Store()
    drawing = renderer.begin(spec, words(1))
    for until in (whole.num_steps // 3, 2 * whole.num_steps // 3):
        draw(renderer, drawing, store, every=7, until=until)
        renderer = ClipRenderer(renderer.model, ClipConfig(max_drawings=2, max_sizes=1))
        drawing = store.resumed(renderer, spec)
        assert until - 7 <= drawing.step <= until
    draw(renderer, drawing, store, every=7)
    assert torch.equal(drawing.latents, whole.latents)
    assert len(drawing.finished) == -(-num_frames // 4)
    frames = [np.concatenate([*itertools.islice(renderer.decode(each), 12)]) for each in (drawing, whole)]
    assert np.array_equal(*frames)


def test_checkpoints_do_not_grow_with_the_clip():
    """Each holds the chunks since the last part; parts, and the newest, are all that stays."""
    renderer, spec, store = renderer_of(False), a_clip(num_frames=640, num_steps=1), Store()
    drawing = renderer.begin(spec, words(1))
    draw(renderer, drawing, store, every=3)
    num_chunks = [
        len(ClipCheckpoint.from_bytes(store.objects[name]).latents)
        for name in store.objects
        if name != store.newest
    ]
    assert len(store.objects) <= 160 / CHUNKS_OF_A_PART + 1
    assert all(CHUNKS_OF_A_PART <= count < CHUNKS_OF_A_PART + 3 for count in num_chunks)
    first = renderer.begin(spec, words(1))
    while len(first.finished) < CHUNKS_OF_A_PART + 3:
        renderer.step([first])
    assert store.largest_bytes <= len(first.checkpoint().data)


def test_an_uploaded_video_is_gone_on_from_for_longer_than_the_window():
    renderer, spec = renderer_of(True), a_clip(start=ClipStart.VIDEO, num_frames=122, num_steps=1)
    data = mp4_bytes(moving_square(30, 32, 32))
    whole = renderer.begin(spec, words(1), first=renderer.first_latents(spec, data))
    num_before = whole.num_before
    assert whole.plan.num_chunks == 31 > renderer.engine((32, 32)).history
    while not whole.is_done:
        renderer.step([whole])
    store = Store()
    drawing = renderer.begin(spec, words(1), first=renderer.first_latents(spec, data))
    draw(renderer, drawing, store, every=4, until=27)
    renderer.close(drawing)
    resumed = store.resumed(renderer, spec)
    assert resumed.step == 24 and resumed.num_before == num_before
    draw(renderer, resumed, store, every=4)
    assert torch.equal(resumed.latents, whole.latents)
    assert sum(len(frames) for frames in renderer.decode(resumed)) == 124


@pytest.mark.parametrize("moves", [False, True])
def test_a_drawing_holds_no_more_the_longer_it_is(moves):
    """In tensors; `gamegen bench memory` measures the process, decoding and writing included."""
    renderer, spec = renderer_of(moves), a_clip(num_frames=400, num_steps=1)
    drawing = renderer.begin(spec, words(1))
    held_bytes = {}
    while not drawing.is_done:
        renderer.step([drawing])
        if len(drawing.finished) in (40, 95):
            held_bytes[len(drawing.finished)] = bytes_of_tensors()
    assert 0 < held_bytes[95] <= held_bytes[40] + memory_bytes(drawing.memory)


def memory_bytes(memory: ViewMemory) -> int:
    """What views that were kept meanwhile may add; there are at most `MAX_VIEWS`."""
    return len(memory_to_bytes(memory)) if memory.views else 0


def bytes_of_tensors() -> int:
    gc.collect()
    return sum(each.nbytes for each in gc.get_objects() if type(each) is torch.Tensor)


def test_a_file_of_chunks_gives_back_what_it_was_given():
    chunks = FinishedChunks()
    assert len(chunks) == 0 and chunks.latents(0, 0).numel() == 0 and chunks.compensated(0, 0) == []
    latents = torch.randn(5, 4, 2, 3).half()
    given = [Compensated(torch.randn(4, 2, 3).half(), torch.randn(1, 2, 3).half()) for _ in range(5)]
    for latent, pair in zip(latents, given, strict=True):
        chunks.append(latent, pair)
    assert torch.equal(chunks.latents(1, 4), latents[1:4])
    for pair, read in zip(given[2:], chunks.compensated(2, 5), strict=True):
        assert torch.equal(pair.latent, read.latent) and torch.equal(pair.confidence, read.confidence)
    assert torch.equal(torch.stack([*chunks.each_latent(3)]), latents[3:])
    with pytest.raises(IndexError, match="chunk 5 of 5"):
        chunks.latents(4, 6)
    with pytest.raises(ValueError, match=r"a chunk of shape \(4, 3, 2\) after chunks of shape \(4, 2, 3\)"):
        chunks.append(latents[0].mT, given[0])
    with pytest.raises(ValueError, match="after chunks of shape"):
        chunks.append(latents[0])

"""Snapshots as bytes: what goes in comes out, and what is not a snapshot is refused by name."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from gamegen.controls import Control
from gamegen.engine import snapshot as snapshots
from gamegen.engine.conditioning import NO_INSTRUCTION, Conditioning, InstructionState
from gamegen.engine.snapshot import PastChunk, WorldSnapshot
from gamegen.models.motion_compensation import Compensated
from gamegen.models.text import TextStates


def text(seed: int, length: int) -> TextStates:
    tokens = torch.randn(length, 384, generator=torch.Generator().manual_seed(seed))
    return TextStates(tokens, tokens.mean(0))


def a_snapshot(
    num_chunks: int = 5, shape: tuple[int, int, int] = (4, 4, 4), moves: bool = False
) -> WorldSnapshot:
    rain = InstructionState(text(2, 3), 1.0)
    fog = InstructionState(text(3, 7), 2 / 3, before=rain.text, share=1 / 3)
    said = [(NO_INSTRUCTION, rain, fog)[i % 3] for i in range(num_chunks)]
    operations = Control({"w"}, yaw_deg=0.7).operations()
    videos = list(torch.randn(4, *shape).half())
    seen = [None, *videos[:2], *[None] * num_chunks]
    chunks = [
        PastChunk(
            torch.randn(shape).half(),
            Conditioning(operations, *steered),
            Compensated(torch.randn(shape).half(), torch.randn(1, *shape[1:]).half()) if moves else None,
        )
        for steered in zip(said, seen, strict=False)
    ]
    return WorldSnapshot(
        seed=-7,
        version=num_chunks + 2,
        prompt=text(1, 9),
        chunks=chunks,
        anchors=chunks[:1],
        upcoming=[fog, rain],
        videos=videos[2:],
        shown=torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8) if moves else None,
    )


def equal(a: object, b: object) -> bool:
    """Whether two things are the same to the last bit, instructions that are one thing included."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(equal(getattr(a, f), getattr(b, f)) for f in a.__dataclass_fields__)
    return a == b


@pytest.mark.parametrize("moves", [False, True])
def test_what_goes_in_comes_out(moves):
    written = a_snapshot(moves=moves)
    data = written.to_bytes()
    assert data == written.to_bytes()
    read = WorldSnapshot.from_bytes(data)
    assert equal(read, written)
    # An instruction is kept once, however many chunks were made under it.
    said = [chunk.conditioning.instruction.text for chunk in read.chunks]
    assert said[1] is said[4] is read.upcoming[0].before
    empty = WorldSnapshot(
        seed=3, version=0, prompt=text(1, 2), chunks=[], anchors=[], upcoming=[NO_INSTRUCTION]
    )
    assert equal(WorldSnapshot.from_bytes(empty.to_bytes()), empty)


def test_bytes_that_end_early_are_refused():
    data = a_snapshot().to_bytes()
    for length in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match="truncated, damaged or not a snapshot"):
            WorldSnapshot.from_bytes(data[:length])


def test_damage_anywhere_is_noticed():
    data = a_snapshot().to_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(len(data), size=300):
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.integers(8)
        with pytest.raises(ValueError, match="snapshot"):
            WorldSnapshot.from_bytes(bytes(damaged))


def told(**changes: object) -> bytes:
    """A snapshot that says something else of itself."""
    data = a_snapshot().to_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    facts = json.loads(header["__metadata__"][snapshots._KEY]) | changes
    return save(load(data), {snapshots._KEY: json.dumps(facts)})


def test_other_versions_are_refused_by_number():
    with pytest.raises(
        ValueError, match=f"format version 99 and this release reads {snapshots.FORMAT_VERSION}"
    ):
        WorldSnapshot.from_bytes(told(format_version=99))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps(print), "not a snapshot"),
        (save({"latents": torch.zeros(3)}), "not a world snapshot"),
        (save({"latents": torch.zeros(3)}, {snapshots._KEY: "[" * 100_000}), "header is not a JSON object"),
        (save({"latents": torch.zeros(3)}, {snapshots._KEY: "{}"}), "its format_version is None"),
        (told(seed="7"), "its seed is '7'"),
        (told(anchors=-1), "its anchors is out of range"),
        (told(crc32=1), "checksum mismatch"),
    ],
)
def test_foreign_bytes_are_refused_and_nothing_in_them_is_run(data, message):
    with pytest.raises(ValueError, match=message):
        WorldSnapshot.from_bytes(data)


def test_snapshots_from_before_frames_were_kept_are_read():
    written = a_snapshot()
    data = written.to_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    older = {name: tensor for name, tensor in load(data).items() if name not in snapshots._ADDED}
    assert len(older) == len(snapshots._TENSORS) - len(snapshots._ADDED)
    assert equal(WorldSnapshot.from_bytes(save(older, header["__metadata__"])), written)


def test_frames_of_another_size_do_not_fit():
    snapshot = a_snapshot(moves=True)
    snapshot.check_fits((4, 4, 4), 384)
    other = dataclasses.replace(snapshot, shown=torch.zeros(2, 32, 48, 3, dtype=torch.uint8))
    with pytest.raises(
        ValueError, match=r"frames of shape \(2, 32, 48, 3\): this world's are \(2, 32, 32, 3\)"
    ):
        other.check_fits((4, 4, 4), 384)


def forged(**tensors: torch.Tensor) -> bytes:
    """A snapshot of some other tensors, whose checksum is right."""
    data = a_snapshot().to_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    facts = json.loads(header["__metadata__"][snapshots._KEY])
    facts.pop("crc32")
    whole = load(data) | tensors
    return save(whole, {snapshots._KEY: json.dumps(facts | {"crc32": snapshots._checksum(whole, facts)})})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (forged(words_W=torch.full((8,), 7, dtype=torch.int32)), "refers to a missing text"),
        (forged(shares_W=torch.full((8,), 2.0, dtype=torch.float64)), "not within 0 and 1"),
        (forged(shares_W=torch.full((8,), torch.nan, dtype=torch.float64)), "NaN or infinity"),
        (forged(words_before_W=torch.full((8,), -2, dtype=torch.int32)), "refers to a missing text"),
        (forged(gates_W=torch.full((8,), -0.1, dtype=torch.float64)), "not within 0 and 1"),
        (forged(words_W=torch.zeros(6, dtype=torch.int32)), "its instructions are incomplete"),
        (forged(latents_MCHW=torch.zeros(9, 4, 4, 4).half()), "for 9 chunks"),
        (forged(has_video_M=torch.ones(6, dtype=torch.int32)), "video prompts are incomplete"),
        (forged(videos_VCHW=torch.zeros(4, 4, 4, 6).half()), "video prompts have another size"),
        (forged(lengths_N=torch.tensor([9, 3, -7], dtype=torch.int32)), "texts are incomplete"),
        (forged(operations_M4O=torch.zeros(6, 4, 3)), r"operations of shape \(6, 4, 3\)"),
        (forged(latents_MCHW=torch.zeros(6, 4, 4)), "latents_MCHW has type F32"),
        (
            forged(compensated_MCHW=torch.zeros(6, 4, 4, 6).half()),
            r"motion-compensated latents of shape \(6, 4",
        ),
        (forged(confidence_M1HW=torch.zeros(6, 1, 4, 4).half()), "motion-compensated latents of shape"),
    ],
)
def test_a_snapshot_that_contradicts_itself_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        WorldSnapshot.from_bytes(data)


def test_a_snapshot_is_small():
    """One of the size of the shipped world's."""
    assert len(a_snapshot(43, (16, 12, 20)).to_bytes()) < 500_000

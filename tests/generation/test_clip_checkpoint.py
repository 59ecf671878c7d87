"""Checkpoints as bytes: what goes in comes out, and what is not a checkpoint is refused by name."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from gamegen.generation import clip_checkpoint as checkpoints
from gamegen.generation.clip_checkpoint import ClipCheckpoint, read_checkpoints
from gamegen.models.motion_compensation import Compensated
from gamegen.models.sampling import SamplingConfig


def a_checkpoint() -> ClipCheckpoint:
    sampling = SamplingConfig(num_steps=50, guidance_scale=2.5, solver="consistency")
    latents, x = torch.randn(5, 4, 4, 6).half(), torch.randn(4, 4, 6)
    return ClipCheckpoint(
        content_hash="a1",
        seed=-7,
        num_before=2,
        step=130,
        steps_done=30,
        sampling=sampling,
        latents=latents,
        x=x,
    )


def test_what_goes_in_comes_out():
    written = a_checkpoint()
    data = written.to_bytes()
    assert data == written.to_bytes()
    read = ClipCheckpoint.from_bytes(data)
    assert torch.equal(read.latents, written.latents) and torch.equal(read.x, written.x)
    assert (read.content_hash, read.seed) == ("a1", -7)
    assert (read.num_before, read.step, read.steps_done) == (2, 130, 30)
    assert read.sampling == written.sampling
    empty = replace(written, num_before=0, latents=torch.empty(0), x=torch.empty(0))
    assert len(ClipCheckpoint.from_bytes(empty.to_bytes()).latents) == 0


def test_what_a_clip_was_drawn_from_comes_out_as_well():
    """The frames shown last and what each chunk was given."""
    given = [Compensated(torch.randn(4, 4, 6).half(), torch.randn(1, 4, 6).half()) for _ in range(5)]
    shown = torch.randint(256, (2, 32, 48, 3), dtype=torch.uint8)
    data = replace(a_checkpoint(), compensated=given, shown=shown).to_bytes()
    read = ClipCheckpoint.from_bytes(data)
    assert torch.equal(read.shown, shown) and len(read.compensated) == 5
    for pair, other in zip(read.compensated, given, strict=True):
        assert torch.equal(pair.latent, other.latent) and torch.equal(pair.confidence, other.confidence)


def parts() -> dict[str, bytes]:
    """Three checkpoints of nine chunks of one clip, each of which goes on from the one before."""
    whole = a_checkpoint()
    first = replace(whole, latents=torch.full((4, 4, 4, 6), 1.0).half())
    second = replace(
        whole, num_earlier=4, earlier="first", step=140, latents=torch.full((3, 4, 4, 6), 2.0).half()
    )
    third = replace(
        whole, num_earlier=7, earlier="second", step=150, latents=torch.full((2, 4, 4, 6), 3.0).half()
    )
    return {"first": first.to_bytes(), "second": second.to_bytes(), "third": third.to_bytes()}


def test_a_checkpoint_goes_on_from_earlier_ones():
    stored = parts()
    read = read_checkpoints(stored["third"], stored.__getitem__)
    assert [len(one.latents) for one in read] == [4, 3, 2]
    assert [float(one.latents.mean()) for one in read] == [1, 2, 3]
    assert (read[-1].num_finished, read[-1].step, read[-1].x.shape) == (9, 150, (4, 4, 6))
    assert [one.num_finished for one in read_checkpoints(stored["first"])] == [4]


def test_earlier_checkpoints_that_do_not_belong_to_it_are_refused():
    stored = parts()
    other = replace(a_checkpoint(), latents=torch.zeros(4, 4, 4, 6).half(), seed=8).to_bytes()
    endless = replace(a_checkpoint(), num_earlier=4, earlier="first", latents=torch.empty(0)).to_bytes()
    for wrong, message in [
        ({"first": other}, "'first' is of another clip"),
        ({"first": stored["second"]}, "goes on from 4 chunks and 'first' has others"),
        ({"first": endless}, "goes on from 4 chunks and 'first' has others"),
        ({"first": b"nonsense"}, "cut off, damaged"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_checkpoints(stored["third"], (stored | wrong).__getitem__)
    with pytest.raises(ValueError, match="goes on from 'second': give the way to read that one too"):
        read_checkpoints(stored["third"])
    with pytest.raises(KeyError):
        read_checkpoints(stored["third"], {"second": stored["second"]}.__getitem__)


def test_damage_anywhere_is_noticed():
    data = a_checkpoint().to_bytes()
    for length in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match="cut off, damaged or not a safetensors file"):
            ClipCheckpoint.from_bytes(data[:length])
    rng = np.random.default_rng(0)
    for place in [*range(700), *rng.integers(len(data), size=300)]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.integers(8)
        with pytest.raises(ValueError, match=r"checkpoint"):
            ClipCheckpoint.from_bytes(bytes(damaged))


def forged(facts: dict | None = None, is_sealed: bool = True, **tensors: torch.Tensor) -> bytes:
    """A checkpoint with other facts or tensors, whose checksum is right if `is_sealed`."""
    data = a_checkpoint().to_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    told = json.loads(header["__metadata__"][checkpoints._KEY]) | (facts or {})
    whole = load(data) | tensors
    if is_sealed:
        told.pop("crc32")
        told["crc32"] = checkpoints._checksum(whole, told)
    return save(whole, {checkpoints._KEY: json.dumps(told)})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps(print), "not a safetensors file"),
        (save({"latents": torch.zeros(3)}), "not a checkpoint of a clip"),
        (
            save({"latents": torch.zeros(3)}, {checkpoints._KEY: "[" * 100_000}),
            "metadata is not a JSON object",
        ),
        (save({"latents": torch.zeros(3)}, {checkpoints._KEY: "{}"}), "its format_version is None"),
        (forged({"format_version": 99}), "format version 99 and this release reads 2"),
        (forged({"step": "7"}), "its step is '7'"),
        (forged({"step": -1, "steps_done": -1}), "its step is -1"),
        (forged({"num_before": 6}), "num_before = 6 of 5 chunks"),
        (forged({"num_earlier": -1}), "its num_earlier is -1"),
        (forged({"earlier": 7}), "its earlier is 7"),
        (forged({"steps_done": 131}), "steps_done = 131 of 130 steps"),
        (forged({"sampling": {"num_steps": "many"}}), "num_steps"),
        (forged({"seed": 8}, is_sealed=False), "its checksum does not match"),
        (forged(x_CHW=torch.full((4, 4, 6), torch.nan)), "NaN or infinite"),
        (forged(x_CHW=torch.zeros(4, 4)), r"a latent of shape \(4, 4\)"),
        (forged(latents_MCHW=torch.zeros(5, 4, 4, 6)), "latents_MCHW has type"),
        (forged(compensated_MCHW=torch.zeros(5, 4, 4, 4).half()), "motion-compensated latents of shape"),
        (forged(more=torch.zeros(1)), "its tensors are"),
    ],
)
def test_foreign_bytes_are_refused_and_nothing_in_them_is_run(data, message):
    with pytest.raises(ValueError, match=message):
        ClipCheckpoint.from_bytes(data)

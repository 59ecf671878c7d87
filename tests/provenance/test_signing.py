"""What signing does to a file, and what it leaves alone."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime

import av
import c2pa
import numpy as np
import pytest

import gamegen
from gamegen.media.mp4 import read_mp4
from gamegen.provenance.certificates import ProvenanceError
from gamegen.provenance.manifest import ClipManifest, FrameChange, sign_mp4
from gamegen.provenance.verification import ProvenanceState, verify_mp4
from tests.provenance.conftest import MANIFEST


def packets(file) -> list[tuple[int, int, bytes]]:
    """The video track as it is in the file."""
    with av.open(str(file)) as container:
        return [(p.pts, p.dts, bytes(p)) for p in container.demux(video=0) if p.pts is not None]


def manifest_of(file) -> dict:
    """The manifest as the reference implementation reads it."""
    with c2pa.Reader(str(file)) as reader:
        return json.loads(reader.detailed_json())


def test_the_video_track_keeps_its_bytes(unsigned, signed):
    before, after = packets(unsigned), packets(signed)
    assert len(before) == 24
    assert before == after
    assert np.array_equal(read_mp4(unsigned), read_mp4(signed))


def test_the_index_stays_first_so_that_the_clip_streams(signed):
    data = signed.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_what_the_manifest_says(signed, signer):
    found = verify_mp4(signed, signer.anchors_pem)
    assert (found.state, found.errors) == (ProvenanceState.VALID, ())
    assert (found.model, found.content_hash) == ("nano", "ab" * 32)
    assert found.when == MANIFEST.created_at
    assert found.generator == f"GameGen {gamegen.__version__}"
    assert [(a.name, a.source_type, a.when) for a in found.actions] == [
        ("c2pa.created", "trainedAlgorithmicMedia", MANIFEST.created_at)
    ]
    assert found.signer == "GameGen development, trusted by this machine only"
    assert found.issuer == "GameGen development, authority"


def test_what_was_done_to_the_drawn_frames_is_said_after_it(unsigned, signer, tmp_path):
    changes = (FrameChange("c2pa.edited", "more frames"), FrameChange("c2pa.resized", "drawn at 160x96"))
    sign_mp4(unsigned, tmp_path / "clip.mp4", replace(MANIFEST, changes=changes), signer)
    found = verify_mp4(tmp_path / "clip.mp4", signer.anchors_pem)
    assert found.state is ProvenanceState.VALID
    assert [action.name for action in found.actions] == ["c2pa.created", "c2pa.edited", "c2pa.resized"]
    (manifest,) = manifest_of(tmp_path / "clip.mp4")["manifests"].values()
    said = manifest["assertion_store"]["c2pa.actions.v2"]["actions"]
    assert [action["description"] for action in said[1:]] == ["more frames", "drawn at 160x96"]


@pytest.mark.parametrize(("may_train", "use"), [(False, "notAllowed"), (True, "allowed")])
def test_training_is_refused_unless_allowed(may_train, use, unsigned, signer, tmp_path):
    sign_mp4(unsigned, tmp_path / "clip.mp4", replace(MANIFEST, may_train=may_train), signer)
    (manifest,) = manifest_of(tmp_path / "clip.mp4")["manifests"].values()
    entries = manifest["assertion_store"]["cawg.training-mining"]["entries"]
    assert len(entries) == 4
    assert {entry["use"] for entry in entries.values()} == {use}
    # The generator says all of it itself.
    assert len(manifest["claim"]["created_assertions"]) == 4 and not manifest["claim"].get(
        "gathered_assertions"
    )


def test_the_same_file_and_manifest_give_the_same_id_and_length(unsigned, signed, signer, tmp_path):
    again, other = tmp_path / "again.mp4", tmp_path / "other.mp4"
    sign_mp4(unsigned, again, MANIFEST, signer)
    sign_mp4(unsigned, other, replace(MANIFEST, content_hash="cd" * 32), signer)
    first, second, third = (manifest_of(file)["active_manifest"] for file in (signed, again, other))
    assert first == second != third
    assert again.stat().st_size == signed.stat().st_size


def test_a_target_is_replaced_and_nothing_is_left_beside_it(unsigned, signer, tmp_path):
    target = tmp_path / "clip.mp4"
    target.write_bytes(b"what a worker that died left behind")
    sign_mp4(unsigned, target, MANIFEST, signer)
    assert verify_mp4(target, signer.anchors_pem).state is ProvenanceState.VALID
    assert list(tmp_path.iterdir()) == [target]


def test_several_threads_sign_at_once(unsigned, signer, tmp_path):
    targets = [tmp_path / f"{number}.mp4" for number in range(16)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda target: sign_mp4(unsigned, target, MANIFEST, signer), targets))
    assert {verify_mp4(target, signer.anchors_pem).state for target in targets} == {ProvenanceState.VALID}


@pytest.mark.parametrize("data", [b"", b"not a video" * 100, b"\0\0\0\x10ftypisom\0\0\0\0" + b"\xff" * 100])
def test_what_is_no_mp4_is_refused_and_leaves_nothing(data, signer, tmp_path):
    source = tmp_path / "source.mp4"
    source.write_bytes(data)
    with pytest.raises(ProvenanceError, match=r"source\.mp4 cannot be signed"):
        sign_mp4(source, tmp_path / "clip.mp4", MANIFEST, signer)
    assert list(tmp_path.iterdir()) == [source]


def test_a_large_file_is_refused_before_it_is_read(unsigned, signer, tmp_path):
    size = unsigned.stat().st_size
    with pytest.raises(ProvenanceError, match=f"has {size} bytes, at most {size - 1}"):
        sign_mp4(unsigned, tmp_path / "clip.mp4", MANIFEST, signer, max_bytes=size - 1)
    with pytest.raises(ProvenanceError, match="at most 10 "):
        verify_mp4(unsigned, max_bytes=10)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": ""}, "model has 0 characters"),
        ({"title": "x" * 201}, "title has 201 characters"),
        ({"content_hash": "AB" * 32}, "SHA-256 in lower case"),
        ({"created_at": datetime(2026, 11, 22)}, "with its zone"),
    ],
)
def test_a_manifest_is_checked(change, sentence):
    fields = {"model": "nano", "content_hash": "ab" * 32, "created_at": MANIFEST.created_at}
    with pytest.raises(ValueError, match=sentence):
        ClipManifest(**{**fields, **change})

"""What is noticed, and how it is said."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from gamegen.provenance.certificates import ProvenanceError, Signer
from gamegen.provenance.manifest import sign_mp4
from gamegen.provenance.verification import ProvenanceState, Verification, verify_mp4
from tests.provenance.certificates import Authority, key_pem
from tests.provenance.conftest import MANIFEST


def boxes(data: bytes) -> Iterator[tuple[str, int, int]]:
    """Name, beginning and end of each of a file's boxes."""
    start = 0
    while start < len(data):
        end = start + int.from_bytes(data[start : start + 4])
        yield data[start + 4 : start + 8].decode(), start, end
        start = end


def box(data: bytes, name: str) -> tuple[int, int]:
    return next((start, end) for found, start, end in boxes(data) if found == name)


def checked(data: bytes, signer: Signer, folder) -> Verification:
    file = folder / "changed.mp4"
    file.write_bytes(data)
    return verify_mp4(file, signer.anchors_pem)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize("part", ["moov", "mdat"])
def test_a_flipped_bit_anywhere_in_index_or_media_is_noticed(part, signed, signer, tmp_path):
    data = signed.read_bytes()
    start, end = box(data, part)
    positions = {start, start + 8, end - 1, *map(int, np.linspace(start + 9, end - 2, 40))}
    for position in sorted(positions):
        found = checked(flipped(data, position), signer, tmp_path)
        assert found.state is ProvenanceState.INVALID, f"{part} byte {position - start}"
        assert found.errors


def test_a_changed_picture_is_told_in_words(signed, signer, tmp_path):
    data = signed.read_bytes()
    found = checked(flipped(data, sum(box(data, "mdat")) // 2), signer, tmp_path)
    assert found.errors == ("the video was changed or cut after it was signed",)
    assert found.model == "nano"


@pytest.mark.parametrize("kept", [0.999, 0.9, 0.5, 0.1, 0.01])
def test_a_cut_file_is_noticed(kept, signed, signer, tmp_path):
    data = signed.read_bytes()
    assert checked(data[: int(kept * len(data))], signer, tmp_path).state is ProvenanceState.INVALID


def test_more_media_is_noticed(signed, signer, tmp_path):
    data = signed.read_bytes()
    more = data + len(data).to_bytes(4) + b"mdat" + data[8:]
    assert checked(more, signer, tmp_path).state is ProvenanceState.INVALID


@pytest.mark.parametrize("said", [b"trainedAlgorithmicMedia", b"ab" * 32, b"trusted by this machine"])
def test_a_changed_statement_is_noticed(said, signed, signer, tmp_path):
    data = signed.read_bytes()
    start, end = box(data, "uuid")
    position = data.index(said, start, end)
    assert checked(flipped(data, position + 3), signer, tmp_path).state is ProvenanceState.INVALID


def test_a_manifest_on_another_clip_is_noticed(unsigned, signed, signer, tmp_path):
    data, other = signed.read_bytes(), bytearray(signed.read_bytes())
    start, end = box(data, "mdat")
    other[start + 8 : end] = other[start + 8 : end][::-1]
    assert checked(bytes(other), signer, tmp_path).errors[0].startswith("the video was changed")


def test_files_without_a_manifest(unsigned, signer, tmp_path):
    assert verify_mp4(unsigned, signer.anchors_pem) == Verification(
        ProvenanceState.ABSENT, errors=("the file has no C2PA manifest",)
    )
    picture = io.BytesIO()
    Image.new("RGB", (16, 16)).save(picture, "JPEG")
    for data in (b"", b"hello" * 1000, picture.getvalue()):
        assert checked(data, signer, tmp_path).errors == ("the file is no MP4",)


def test_nonsense_never_ends_the_process(signed, signer, tmp_path):
    data, random = signed.read_bytes(), np.random.default_rng(1)
    for _ in range(100):
        changed = np.frombuffer(data, np.uint8).copy()
        # Most of it where the structure is.
        positions = random.integers(0, 6000, 8)
        changed[positions] = random.integers(0, 256, 8)
        assert checked(changed.tobytes(), signer, tmp_path).state in ProvenanceState


def test_a_signer_whom_nobody_trusts(signed):
    for anchors in ("", Authority().chain(ec.generate_private_key(ec.SECP256R1()))):
        found = verify_mp4(signed, anchors)
        assert found.state is ProvenanceState.INVALID
        assert found.errors == (f"{found.signer} is vouched for by nobody who is trusted here",)


def test_a_namesake_is_not_trusted(unsigned, tmp_path):
    real, false, key = Authority(), Authority(), ec.generate_private_key(ec.SECP256R1())
    sign_mp4(unsigned, tmp_path / "clip.mp4", MANIFEST, Signer(false.chain(key), key_pem(key), "es256"))
    trusted = Signer(real.chain(key), key_pem(key), "es256").anchors_pem
    assert verify_mp4(tmp_path / "clip.mp4", trusted).state is ProvenanceState.INVALID


def test_what_cannot_be_checked_is_an_error(signed, tmp_path):
    with pytest.raises(FileNotFoundError):
        verify_mp4(tmp_path / "none.mp4")
    with pytest.raises(ProvenanceError, match="anchors_pem holds no PEM certificate"):
        verify_mp4(signed, "not a certificate")

"""`gamegen verify`, run as people run it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gamegen.provenance.certificates import signer_from_environment
from gamegen.provenance.manifest import sign_mp4
from tests.provenance.conftest import MANIFEST


@pytest.fixture
def clip(unsigned, tmp_path):
    """A clip signed by this machine's own signer."""
    sign_mp4(unsigned, tmp_path / "clip.mp4", MANIFEST, signer_from_environment())
    return tmp_path / "clip.mp4"


def test_a_clip_of_this_machine_is_valid(gamegen, clip):
    done = gamegen("verify", str(clip))
    assert done.returncode == 0
    for word in ("valid", "development", "nano", "ab" * 10, "c2pa.created trainedAlgorithmicMedia"):
        assert word in done.stdout, word


def test_help_has_an_example(gamegen):
    assert "gamegen verify clip.mp4" in gamegen("verify", "--help").stdout


def test_a_changed_clip_is_not(gamegen, clip):
    data = bytearray(clip.read_bytes())
    data[-100] ^= 1
    clip.write_bytes(data)
    done = gamegen("verify", str(clip))
    assert done.returncode == 1
    assert "invalid" in done.stdout and "changed" in done.stdout


def test_an_unsigned_one_is_absent(gamegen, unsigned):
    done = gamegen("verify", str(unsigned))
    assert done.returncode == 1 and "absent" in done.stdout


def test_other_authorities_can_be_named(gamegen, signed, signer, tmp_path):
    assert gamegen("verify", str(signed)).returncode == 1
    (tmp_path / "anchors.pem").write_text(signer.anchors_pem)
    assert gamegen("verify", str(signed), "--anchors", str(tmp_path / "anchors.pem")).returncode == 0


def test_what_cannot_be_checked_is_exit_status_2(gamegen, tmp_path):
    done = gamegen("verify", str(tmp_path / "none.mp4"))
    assert done.returncode == 2 and "none.mp4" in done.stderr


def test_what_a_file_says_steers_no_terminal(gamegen, unsigned, tmp_path):
    manifest = replace(MANIFEST, model="[red]nano[/red] \x1b[2J\u202e")
    sign_mp4(unsigned, tmp_path / "clip.mp4", manifest, signer_from_environment())
    done = gamegen("verify", str(tmp_path / "clip.mp4"))
    assert done.returncode == 0
    assert "[red]nano[/red] ?[2J?" in done.stdout and "\x1b[2J" not in done.stdout

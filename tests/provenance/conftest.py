"""A clip, signed and not."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from gamegen.media.mp4 import write_mp4
from gamegen.provenance.certificates import Signer, signer_from_environment
from gamegen.provenance.manifest import ClipManifest, sign_mp4

MANIFEST = ClipManifest("nano", "ab" * 32, datetime(2026, 11, 22, 10, 30, tzinfo=UTC))


@pytest.fixture(autouse=True)
def no_certificates_of_the_person_who_tests(monkeypatch, tmp_path_factory) -> None:
    for name in ("GAMEGEN_C2PA_CERTIFICATE", "GAMEGEN_C2PA_KEY", "GAMEGEN_C2PA_ANCHORS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / "data"))


@pytest.fixture(scope="session")
def signer(tmp_path_factory) -> Signer:
    """The development signer of a folder of its own."""
    return signer_from_environment(tmp_path_factory.mktemp("development"))


@pytest.fixture(scope="session")
def unsigned(tmp_path_factory) -> Path:
    """One second of noise."""
    file = tmp_path_factory.mktemp("clips") / "unsigned.mp4"
    write_mp4(file, np.random.default_rng(0).integers(0, 256, (24, 64, 96, 3), dtype=np.uint8))
    return file


@pytest.fixture(scope="session")
def signed(unsigned, signer) -> Path:
    """The same second, signed."""
    file = unsigned.with_name("signed.mp4")
    sign_mp4(unsigned, file, MANIFEST, signer)
    return file

"""The umask says who can read what GameGen writes, whatever the library that writes it thinks of that."""

from __future__ import annotations

import ast
import os
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from gamegen.curation.packed import PieceWriter
from gamegen.evaluation.scenes import SceneHeads, save_scenes
from gamegen.files import write_atomically
from gamegen.folders import cache_folder, data_folder
from gamegen.media.mp4 import write_mp4
from gamegen.models.checkpoint import save_random
from gamegen.models.model import ModelConfig
from gamegen.provenance.certificates import signer_from_environment
from gamegen.provenance.manifest import ClipManifest, sign_mp4
from gamegen.registry.registry import Registry
from gamegen.storage.local import LocalStore
from gamegen.storage.objects import default_url

REPOSITORY = Path(__file__).parent.parent


def write_weights(folder: Path) -> None:
    save_random(folder / "weights", ModelConfig.tiny())


def write_scenes(folder: Path) -> None:
    save_scenes(SceneHeads(2, {"weather": ["clear", "rain"]}), folder, {})


def write_pieces(folder: Path) -> None:
    with PieceWriter(folder / "piece") as writer:
        writer.write([{"clip_id": "a", "latents": b"1234"}])


def write_objects(folder: Path) -> None:
    source = folder / "source"
    source.write_text("content")
    store = LocalStore(folder / "store")
    store.upload("a/b", source)
    store.upload("a/c", source, create=True)
    store.download("a/b", folder / "copy")


def write_signed_clip(folder: Path) -> None:
    write_mp4(folder / "plain.mp4", np.zeros((2, 32, 32, 3), np.uint8))
    manifest = ClipManifest("nano", "0" * 64, datetime(2026, 1, 2, tzinfo=UTC))
    sign_mp4(folder / "plain.mp4", folder / "signed.mp4", manifest, signer_from_environment())


def write_fetched_model(folder: Path) -> None:
    save_random(folder / "weights", ModelConfig.tiny())
    registry = Registry(LocalStore(folder / "store"))
    registry.add("mine", folder / "weights")
    registry.fetch("mine", 1, folder / "fetched")


def write_over_others(folder: Path) -> None:
    """A file of another mode is replaced, and what a killed writer left is of another mode too."""
    for file in (folder / "file", folder / "file.partial"):
        file.write_text("old")
        file.chmod(0o640)
    with write_atomically(folder / "file") as partial:
        partial.unlink()
        partial.touch(mode=0o600)


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Umasks of a desktop, of a careful server and of a group that shares its files."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize(
    "write",
    [
        write_weights,
        write_scenes,
        write_pieces,
        write_objects,
        write_signed_clip,
        write_fetched_model,
        write_over_others,
    ],
)
def test_modes_follow_the_umask(
    write: Callable[[Path], None], umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    folder = tmp_path / "written"
    folder.mkdir()
    write(folder)
    written = list(folder.rglob("*"))
    assert written
    for path in written:
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


@pytest.mark.parametrize("left", [None, 0o644])
def test_a_secret_is_its_owners_from_its_first_byte(left: int | None, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    if left:
        (tmp_path / "key.pem.partial").touch(mode=left)
    with write_atomically(file, mode=0o600) as partial:
        assert stat.S_IMODE(partial.stat().st_mode) == 0o600
        partial.write_text("secret")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("earlier", [None, 0o755])
def test_only_this_user_may_enter_the_default_store(
    earlier: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    if earlier:
        (tmp_path / "gamegen" / "objects").mkdir(earlier, parents=True)
    folder = Path(default_url())
    assert folder == data_folder() / "objects" and stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("find", "variable"), [(data_folder, "XDG_DATA_HOME"), (cache_folder, "XDG_CACHE_HOME")]
)
def test_folders_are_below_the_home_unless_a_variable_names_them(
    find: Callable[[], Path], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.delenv(variable, raising=False)
    assert find().is_relative_to("/home/ann") and find().name == "gamegen"
    monkeypatch.setenv(variable, "/big/disk")
    assert find() == Path("/big/disk/gamegen")


def test_whoever_makes_files_with_modes_of_their_own_goes_through_one_helper() -> None:
    wrong = []
    for package in ("gamegen", "jobs", "deployments", "loadtest", "cluster"):
        for file in (REPOSITORY / package).rglob("*.py"):
            source = file.read_text()
            calls = {
                getattr(node.func, "attr", getattr(node.func, "id", ""))
                for node in ast.walk(ast.parse(source))
                if isinstance(node, ast.Call)
            }
            if "mkstemp" in calls or ("save_file" in calls and "write_atomically" not in calls):
                wrong.append(str(file))
    assert not wrong

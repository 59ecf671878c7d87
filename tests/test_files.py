"""Files are written whole or not at all."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gamegen.files import file_sha256, write_atomically


def test_a_sum_is_that_of_the_content(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"x" * 3_000_000).hexdigest()


@pytest.mark.parametrize("is_durable", [True, False])
@pytest.mark.parametrize("is_shared", [True, False])
def test_a_reader_meets_the_old_content_or_the_new(tmp_path, is_durable, is_shared):
    file = tmp_path / "page.html"
    file.write_text("old")
    with write_atomically(file, is_durable=is_durable, is_shared=is_shared) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new" and [*tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_content_and_nothing_beside_it(tmp_path, error):
    file = tmp_path / "page.html"
    file.write_text("old")
    with pytest.raises(error), write_atomically(file) as partial:
        partial.write_text("ne")
        raise error
    assert file.read_text() == "old" and [*tmp_path.iterdir()] == [file]


def test_a_killed_writer_hinders_nobody(tmp_path):
    (tmp_path / "file.partial").write_text("a longer half of something")
    with write_atomically(tmp_path / "file") as partial:
        partial.write_text("whole")
    assert (tmp_path / "file").read_text() == "whole" and len([*tmp_path.iterdir()]) == 1


def test_writers_of_a_shared_file_do_not_mix(tmp_path):
    file = tmp_path / "file"

    def write(letter: str) -> None:
        with (
            write_atomically(file, is_shared=True) as partial,
            Path(partial).open("w", encoding="utf-8") as stream,
        ):
            for _ in range(1000):
                stream.write(letter)
                stream.flush()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert file.read_text() in {letter * 1000 for letter in "abcd"} and [*tmp_path.iterdir()] == [file]

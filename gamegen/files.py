"""Files: their SHA-256, those of a folder, and writing them so that no reader meets half of one."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal; raises OSError if it cannot be read."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def visible_files(folder: Path, pattern: str = "*") -> list[Path]:
    """The files under a folder, at any depth, whose names match; those that begin with a dot are left out.

    macOS and file browsers leave such files, named like those that they belong to, and Git has a folder of them.
    """
    found = (file for file in folder.rglob(pattern) if file.is_file())
    return sorted(
        file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


@contextmanager
def write_atomically(file: Path, *, is_durable: bool = False, is_shared: bool = False) -> Iterator[Path]:
    """A name beside `file` to write to; it replaces `file` when the block ends, and is removed if the block raises.

        with write_atomically(path) as partial:
            partial.write_text(page)

    `is_durable` flushes the content to the disk first. `is_shared` takes a name of its own, for a file that several
    processes may write at once; otherwise the name is `file`'s with `.partial` behind it, so that what a killed
    process left is overwritten by the next.
    """
    suffix = f".{secrets.token_hex(8)}.partial" if is_shared else ".partial"
    partial = file.with_name(file.name + suffix)
    try:
        yield partial
        if is_durable:
            _flush(partial)
        partial.replace(file)
    except BaseException:
        if partial.is_file():
            partial.unlink()
        raise


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

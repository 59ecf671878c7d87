"""Files: their SHA-256, those of a folder, and writing them so that no reader meets half of one."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
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


def create_file(file: Path, mode: int = 0o666) -> int:
    """Creates a file with `mode` less the umask, unlike `mkstemp`; returns a descriptor to write to.

    Raises FileExistsError if the name is taken.
    """
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)


@contextmanager
def write_atomically(
    file: Path, *, is_durable: bool = False, is_shared: bool = False, mode: int = 0o666
) -> Iterator[Path]:
    """An empty file beside `file` to write to; it replaces `file` when the block ends, and is removed if it raises.

        with write_atomically(path) as partial:
            partial.write_text(page)

    `is_durable` flushes the content to the disk first. `is_shared` takes a name of its own, for a file that several
    processes may write at once; otherwise the name is `file`'s with `.partial` behind it, so that what a killed
    process left is overwritten by the next.

    The file's mode is `mode` less the umask, whatever the writer makes of it: safetensors gives its files to their
    owner alone.
    """
    suffix = f".{secrets.token_hex(8)}.partial" if is_shared else ".partial"
    partial = file.with_name(file.name + suffix)
    partial.unlink(missing_ok=True)
    descriptor = create_file(partial, mode)
    created_mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    os.close(descriptor)
    try:
        yield partial
        if stat.S_IMODE(partial.stat().st_mode) != created_mode:
            partial.chmod(created_mode)
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

"""Resumable downloads: after a broken connection the rest of a file is requested."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Callable, Optional

import httpx

from gamegen_client.errors import DamagedFileError, ProblemError
from gamegen_client.transport import Backoff, Transport, unreachable

_PIECE_BYTES = 1 << 16
Progress = Callable[[int, Optional[int]], None]
"""Called with the bytes that are there, and how many there will be."""


def fetch(transport: Transport, path: str, file: Path, tries: int, progress: Progress | None = None) -> Path:
    """Downloads an object to `file`, which appears when it is whole; resumes an interrupted download.

    Raises DamagedFileError if it does not have the size and SHA-256 that the server names, ProblemError, and
    UnavailableError after so many tries in a row that brought nothing.
    """
    partial = file.with_name(file.name + ".partial")
    backoff, failures = Backoff(), 0
    while True:
        before = _size(partial)
        try:
            _fetch_rest(transport, path, partial, progress)
            partial.replace(file)
            return file
        except httpx.TransportError as error:
            failures = 0 if _size(partial) > before else failures + 1
            if failures >= tries:
                raise unreachable(transport.http.base_url, error) from error
            backoff.wait()
        except ProblemError as error:
            # Another file by now, or less of it than is here: from the beginning.
            if error.status != 416:
                raise
            partial.unlink()


def _fetch_rest(transport: Transport, path: str, partial: Path, progress: Progress | None) -> None:
    tag_file = partial.with_name(partial.name + ".etag")
    start = _size(partial)
    headers: dict[str, str] = {}
    if start and tag_file.exists():
        headers = {"Range": f"bytes={start}-", "If-Range": tag_file.read_text(encoding="ascii")}
    with transport.streamed(path, headers, follow_redirects=True) as response:
        goes_on = response.status_code == 206
        tag = response.headers.get("etag", "")
        tag_file.write_text(tag, encoding="ascii")
        total = _total(response)
        with partial.open("ab" if goes_on else "wb") as target:
            for piece in response.iter_bytes(_PIECE_BYTES):
                target.write(piece)
                if progress:
                    progress(target.tell(), total)
            target.flush()
            os.fsync(target.fileno())
    tag_file.unlink()
    _check(partial, total, tag.strip('"'))


def _total(response: httpx.Response) -> int | None:
    if response.status_code == 206:
        total = response.headers.get("content-range", "").rpartition("/")[2]
        return int(total) if total.isdigit() else None
    told = response.headers.get("content-length", "")
    return int(told) if told.isdigit() and "content-encoding" not in response.headers else None


def _check(partial: Path, total: int | None, tag: str) -> None:
    size, expected_sha256 = _size(partial), tag if len(tag) == 64 else None
    if total is not None and size != total:
        partial.unlink()
        raise DamagedFileError(f"got {size} bytes of {total}: fetch it again")
    if expected_sha256 and _sha256(partial) != expected_sha256:
        partial.unlink()
        raise DamagedFileError(f"the file's SHA-256 is not the server's {expected_sha256}: fetch it again")


def _sha256(file: Path) -> str:
    total = hashlib.sha256()
    with file.open("rb") as source:
        for piece in iter(lambda: source.read(1 << 20), b""):
            total.update(piece)
    return total.hexdigest()


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0

"""`gamegen replay`: draws a session again from its log, in part or with another ending."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.progress import Progress

if TYPE_CHECKING:
    import httpx

    from gamegen.sessions.log import SessionLog

FETCH_TIMEOUT_S = 60.0
_SOCKET_TIMEOUT_S = 10.0
_PIECE_BYTES = 1 << 16


def replay(
    source: Annotated[str, typer.Argument(help="a session's log: a file, or http://.../v1/sessions/ID/log")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="what to write: .mp4 a video, .png a contact sheet")
    ] = None,
    start: Annotated[int, typer.Option("--from", help="first chunk to write; a chunk is 4 frames")] = 0,
    until: Annotated[
        int | None, typer.Option(help="chunk to end before, the session's end by default")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="draws it, instead of the model that the log names")
    ] = None,
    export: Annotated[Path | None, typer.Option(help="folder for it as footage to train on")] = None,
    branch: Annotated[int | None, typer.Option(help="chunk from which --keys are played instead")] = None,
    keys: Annotated[str | None, typer.Option(help="KEYS*FRAMES,... as for gamegen rollout")] = None,
    save: Annotated[Path | None, typer.Option(help="file for the log of what is drawn")] = None,
) -> None:
    """Draws a session again from its log: the same frames as when it was played.

    Example: gamegen replay session.json -o out.mp4
    Example: gamegen replay session.json --branch 24 --keys "w*24,left*24" --save other.json -o other.png
    """
    from gamegen.constants import FRAMES_PER_CHUNK
    from gamegen.controls import chunk_controls, parse_script
    from gamegen.media.export import check_suffix
    from gamegen.sessions.log_file import to_json

    if not (output or export or save):
        raise ValueError("nothing to write: give -o FILE, --export FOLDER or --save FILE")
    if (branch is None) != (keys is None):
        raise ValueError('--branch CHUNK and --keys "w*24,left*24" belong together: give both or neither')
    if output:
        check_suffix(output)
    log = read_session(source)
    if branch is not None and keys is not None:
        log = log.branch(branch, chunk_controls(parse_script(keys)))
    if model:
        log = replace(log, spec=replace(log.spec, model=model))
    stop = len(log.controls) if until is None else until
    drawn = log.until(stop)
    if not 0 <= start < stop:
        raise ValueError(
            f"--from {start}: nothing is left of {stop} chunks, begin at one from 0 to {stop - 1}"
        )
    # What is saved is the whole session; from where and to where it is looked at is no part of it.
    text = to_json(log)
    if save:
        save.write_text(text, encoding="utf-8")
        print(f"{save}: {len(log.controls)} chunks")
    if output or export:
        _write(drawn, start, output, export)
    if output:
        num_frames = (stop - start) * FRAMES_PER_CHUNK
        print(f"{output}: {num_frames} frames of {log.spec.width}x{log.spec.height}")


def read_session(source: str) -> SessionLog:
    """The log in a file or at an http(s) address.

    Raises ValueError for anything else, naming it, and FileNotFoundError if there is no such file.
    """
    from gamegen.sessions.log_file import from_json

    is_address = source.startswith(("http://", "https://"))
    data = _fetch(source) if is_address else _read(Path(source))
    try:
        return from_json(data.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not a session log: it is not text in UTF-8") from error
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _read(path: Path) -> bytes:
    from gamegen.sessions.log_file import MAX_FILE_BYTES

    if path.is_dir():
        raise ValueError(f"{path} is a folder: give a session's file")
    with path.open("rb") as file:
        # One byte more than allowed is enough to be refused.
        return file.read(MAX_FILE_BYTES + 1)


def _fetch(address: str) -> bytes:
    import httpx

    from gamegen.process.error_sentences import answered, unreachable
    from gamegen.sessions.log_file import MAX_FILE_BYTES

    deadline_s = time.monotonic() + FETCH_TIMEOUT_S
    data = bytearray()
    try:
        with httpx.stream("GET", address, timeout=_SOCKET_TIMEOUT_S, follow_redirects=True) as answer:
            if answer.is_error:
                raise ValueError(f"{answered(address, answer.status_code)} ({_reason(answer)})")
            for piece in answer.iter_bytes():
                data += piece
                if len(data) > MAX_FILE_BYTES:
                    break
                if time.monotonic() > deadline_s:
                    raise ValueError(f"{address}: not complete after {FETCH_TIMEOUT_S:g} s, try again later")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ValueError(unreachable(address, error)) from error
    return bytes(data)


def _reason(answer: httpx.Response) -> str:
    """The message in an error of this API, or HTTP's own words."""
    try:
        return str(json.loads(b"".join(islice(answer.iter_bytes(_PIECE_BYTES), 1)))["error"]["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return answer.reason_phrase


def _write(log: SessionLog, start: int, output: Path | None, export: Path | None) -> None:
    from gamegen.replay import replay as drawing

    chunks = drawing.replay(log)
    with Progress() as bar:
        part: Iterator[np.ndarray] = islice(
            bar.track(chunks, total=len(log.controls), description="drawing"), start, None
        )
        if output:
            part = (_to_sheet if output.suffix == ".png" else _to_video)(part, log, start, output)
        clips = drawing.export(log, export, start, part) if export else []
        # Takes what is left: whoever writes beside it is finished by that.
        deque(part, maxlen=0)
    if export:
        frames = sum(clip.num_frames for clip in clips)
        print(f"{export}: {frames} frames of footage in {len(clips)} clip{'s' * (len(clips) > 1)}")


def _to_video(chunks: Iterator[np.ndarray], log: SessionLog, start: int, path: Path) -> Iterator[np.ndarray]:
    """Passes the chunks on and writes them to a video."""
    from gamegen.media.mp4 import Mp4Writer

    with Mp4Writer.open(path, (log.spec.width, log.spec.height)) as video:
        for frames in chunks:
            for frame in frames:
                video.write(frame)
            yield frames


def _to_sheet(chunks: Iterator[np.ndarray], log: SessionLog, start: int, path: Path) -> Iterator[np.ndarray]:
    """Passes the chunks on and writes some of them to a contact sheet."""
    from gamegen.constants import FRAMES_PER_CHUNK
    from gamegen.media.export import sheet_frames, write_contact_sheet

    wanted = sheet_frames((len(log.controls) - start) * FRAMES_PER_CHUNK).tolist()
    kept: dict[int, np.ndarray] = {}
    for index, frames in enumerate(chunks):
        for number, frame in enumerate(frames, index * FRAMES_PER_CHUNK):
            if number in wanted:
                kept[number] = frame
        yield frames
    write_contact_sheet(path, np.stack([kept[number] for number in wanted]))

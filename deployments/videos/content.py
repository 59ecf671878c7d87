"""A clip's files: whole, in ranges (RFC 9110, section 14), or from the object store itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from starlette.concurrency import iterate_in_threadpool

from deployments.errors import ApiError
from deployments.videos.problems import problem_response
from deployments.videos.service import VideoService
from gamegen.storage.objects import ObjectNotFoundError
from gamegen.videos.records import Generation, Result
from gamegen.videos.states import FINAL, State

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_RETRY_S = 2


@dataclass(frozen=True)
class File:
    """An object as a client fetches it; `tag` changes when its bytes do."""

    key: str
    size_bytes: int
    tag: str
    media_type: str
    name: str


def result_of(video: Generation) -> Result:
    """The files of a finished clip; raises ApiError (404, 409, 451) if there are none, saying why."""
    if video.state is State.BLOCKED:
        reason = video.failure.message if video.failure else "its frames may not be shown"
        raise ApiError(451, "video_blocked", f"this video is blocked: {reason}")
    if video.state in (State.FAILED, State.CANCELLED):
        why = f" ({video.failure.message})" if video.failure else ""
        message = f"this video has no file, it is {video.state}{why}: order it again"
        raise ApiError(409, f"video_{video.state.lower()}", message)
    if video.state not in FINAL or video.result is None:
        message = f"this video is {video.state} ({video.progress:.0%}): ask again when it is COMPLETED"
        raise ApiError(409, "video_not_ready", message, retry_after_s=_RETRY_S)
    if video.expired_at is not None:
        message = "this video's files were removed after their time: order it again, and keep it"
        raise ApiError(404, "video_expired", message)
    return video.result


def clip_file(video: Generation) -> File:
    """The clip; raises ApiError as `result_of`."""
    result = result_of(video)
    tag, name = f'"{result.content_sha256}"', f"{video.id}.mp4"
    return File(result.content_key, result.content_bytes, tag, "video/mp4", name)


async def thumbnail_file(service: VideoService, video: Generation) -> File:
    """The small picture; raises ApiError as `result_of`."""
    result = result_of(video)
    size_bytes = await asyncio.to_thread(_size, service, result.thumbnail_key)
    tag, name = f'"{result.content_sha256}-thumbnail"', f"{video.id}.jpg"
    return File(result.thumbnail_key, size_bytes, tag, "image/jpeg", name)


async def answer(service: VideoService, file: File, request: Request) -> Response:
    """What a GET or HEAD of a file gets; raises ApiError (404)."""
    headers = {
        "ETag": file.tag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=3600",
        "Content-Disposition": f'inline; filename="{file.name}"',
        "X-Content-Type-Options": "nosniff",
    }
    if request.headers.get("if-none-match") in (file.tag, "*"):
        return Response(status_code=304, headers=headers)
    if service.settings.redirects_content and (url := await _url(service, file)):
        return RedirectResponse(url, 302, headers={"Cache-Control": "no-store"})
    try:
        part = _range(request, file)
    except ApiError as error:
        refusal = problem_response(error)
        if error.status == 416:
            refusal.headers["Content-Range"] = f"bytes */{file.size_bytes}"
        return refusal
    start, stop = part or (0, file.size_bytes)
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size_bytes}"
    headers["Content-Length"] = str(stop - start)
    status = 206 if part else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=file.media_type)
    pieces = await _pieces(service, file.key, start, stop)
    return StreamingResponse(pieces, status, headers, file.media_type)


def _range(request: Request, file: File) -> tuple[int, int] | None:
    """The bytes asked for, the end not included; None for all. Several ranges at once are answered by the whole."""
    asked = request.headers.get("range", "").replace(" ", "")
    if not asked.startswith("bytes=") or "," in asked:
        return None
    # The file has changed since the client got its first part.
    if request.headers.get("if-range", file.tag) != file.tag:
        return None
    found = _RANGE.fullmatch(asked)
    first, last = found.groups() if found else ("", "")
    if not (first or last) or (first and last and int(last) < int(first)):
        message = f"Range: {asked[:80]!r}: write bytes=START-END, bytes=START- or bytes=-LENGTH"
        raise ApiError(400, "invalid_range", message)
    start = int(first) if first else max(0, file.size_bytes - int(last))
    stop = min(int(last) + 1, file.size_bytes) if first and last else file.size_bytes
    if start >= file.size_bytes:
        message = f"Range: {asked[:80]}: the file has {file.size_bytes} bytes, begin before its end"
        raise ApiError(416, "range_not_satisfiable", message)
    return start, stop


async def _pieces(service: VideoService, key: str, start: int, stop: int) -> AsyncIterator[bytes]:
    """Bytes of an object; raises ApiError (404) before the first of them if it is not there."""
    try:
        pieces = await asyncio.to_thread(service.objects.read_range, key, start, stop)
    except ObjectNotFoundError as error:
        raise _removed() from error
    return iterate_in_threadpool(pieces)


async def _url(service: VideoService, file: File) -> str | None:
    return await asyncio.to_thread(
        service.objects.url, file.key, service.settings.url_s, file.name, file.media_type
    )


def _size(service: VideoService, key: str) -> int:
    try:
        return service.objects.size(key)
    except ObjectNotFoundError as error:
        raise _removed() from error


def _removed() -> ApiError:
    return ApiError(404, "video_expired", "this video's files were removed just now: order it again")

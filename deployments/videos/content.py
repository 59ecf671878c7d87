"""Downloads of a video's files: whole, in ranges (RFC 9110, section 14), or by redirect to the object store."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from starlette.concurrency import iterate_in_threadpool

from deployments.errors import ApiError, problem_response
from deployments.videos.settings import VideoApiSettings
from gamegen.service.orders.records import Generation, Result
from gamegen.service.orders.states import FINAL, State
from gamegen.storage.objects import ObjectNotFoundError, ObjectStore

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_RETRY_AFTER_S = 2


@dataclass(frozen=True, kw_only=True)
class DownloadFile:
    """An object with its HTTP headers; the ETag `etag` changes when its bytes do."""

    key: str
    size_bytes: int
    etag: str
    media_type: str
    name: str


class VideoDownloads:
    """Answers GET and HEAD of a finished video's clip and thumbnail."""

    def __init__(self, objects: ObjectStore, settings: VideoApiSettings) -> None:
        self._objects = objects
        self._settings = settings

    async def clip(self, video: Generation, request: Request) -> Response:
        """The response with the MP4 file or a range of it; raises ApiError (404, 409, 451)."""
        result = result_of(video)
        file = DownloadFile(
            key=result.content_key,
            size_bytes=result.content_bytes,
            etag=f'"{result.content_sha256}"',
            media_type="video/mp4",
            name=f"{video.id}.mp4",
        )
        return await self._respond(file, request)

    async def thumbnail(self, video: Generation, request: Request) -> Response:
        """The response with the JPEG thumbnail or a range of it; raises ApiError (404, 409, 451)."""
        result = result_of(video)
        file = DownloadFile(
            key=result.thumbnail_key,
            size_bytes=await asyncio.to_thread(self._size_bytes, result.thumbnail_key),
            etag=f'"{result.content_sha256}-thumbnail"',
            media_type="image/jpeg",
            name=f"{video.id}.jpg",
        )
        return await self._respond(file, request)

    async def _respond(self, file: DownloadFile, request: Request) -> Response:
        headers = {
            "ETag": file.etag,
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, max-age=3600",
            "Content-Disposition": f'inline; filename="{file.name}"',
            "X-Content-Type-Options": "nosniff",
        }
        if request.headers.get("if-none-match") in (file.etag, "*"):
            return Response(status_code=304, headers=headers)
        if self._settings.redirects_content and (url := await self._url(file)):
            return RedirectResponse(url, 302, headers={"Cache-Control": "no-store"})
        try:
            part = _range(request, file)
        except ApiError as error:
            response = problem_response(request.scope, error)
            if error.status == 416:
                response.headers["Content-Range"] = f"bytes */{file.size_bytes}"
            return response
        start, stop = part or (0, file.size_bytes)
        if part:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size_bytes}"
        headers["Content-Length"] = str(stop - start)
        status = 206 if part else 200
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers, media_type=file.media_type)
        pieces = await self._pieces(file.key, start, stop)
        return StreamingResponse(pieces, status_code=status, headers=headers, media_type=file.media_type)

    async def _pieces(self, key: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """Bytes of an object; raises ApiError (404) before the first of them if the object is gone."""
        try:
            pieces = await asyncio.to_thread(self._objects.read_range, key, start, stop)
        except ObjectNotFoundError as error:
            raise _removed() from error
        return iterate_in_threadpool(pieces)

    async def _url(self, file: DownloadFile) -> str | None:
        return await asyncio.to_thread(
            self._objects.url,
            file.key,
            expires_s=self._settings.url_s,
            filename=file.name,
            content_type=file.media_type,
        )

    def _size_bytes(self, key: str) -> int:
        try:
            return self._objects.size(key)
        except ObjectNotFoundError as error:
            raise _removed() from error


def result_of(video: Generation) -> Result:
    """The files of a finished video; raises ApiError (404, 409, 451) with the reason if it has none."""
    if video.state is State.BLOCKED:
        reason = video.failure.message if video.failure else "its frames may not be shown"
        raise ApiError(451, "video_blocked", f"this video is blocked: {reason}")
    if video.state in (State.FAILED, State.CANCELLED):
        reason = f" ({video.failure.message})" if video.failure else ""
        message = f"this video has no file, it is {video.state}{reason}: order it again"
        raise ApiError(409, f"video_{video.state.lower()}", message)
    if video.state not in FINAL or video.result is None:
        message = f"this video is {video.state} ({video.progress:.0%}): ask again when it is COMPLETED"
        raise ApiError(409, "video_not_ready", message, retry_after_s=_RETRY_AFTER_S)
    if video.expired_at is not None:
        message = "this video's files were removed after their time: order it again, and keep it"
        raise ApiError(404, "video_expired", message)
    return video.result


def _range(request: Request, file: DownloadFile) -> tuple[int, int] | None:
    """The requested range as (start, stop), `stop` excluded; None for the whole file.

    Several ranges in one request select the whole file. Raises ApiError (400, 416).
    """
    header = request.headers.get("range", "").replace(" ", "")
    if not header.startswith("bytes=") or "," in header:
        return None
    # The file has changed since the client got its first part.
    if request.headers.get("if-range", file.etag) != file.etag:
        return None
    found = _RANGE.fullmatch(header)
    first, last = found.groups() if found else ("", "")
    if not (first or last) or (first and last and int(last) < int(first)):
        message = f"Range: {header[:80]!r}: write bytes=START-END, bytes=START- or bytes=-LENGTH"
        raise ApiError(400, "invalid_range", message)
    start = int(first) if first else max(0, file.size_bytes - int(last))
    stop = min(int(last) + 1, file.size_bytes) if first and last else file.size_bytes
    if start >= file.size_bytes:
        message = f"Range: {header[:80]}: the file has {file.size_bytes} bytes, begin before its end"
        raise ApiError(416, "range_not_satisfiable", message)
    return start, stop


def _removed() -> ApiError:
    return ApiError(404, "video_expired", "this video's files were removed just now: order it again")

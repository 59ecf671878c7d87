"""Bodies that are too large are refused before they are read."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from deployments.body_limit import BodyLimit
from deployments.errors import install_error_handlers

LIMIT = 100


class Upload:
    """A client that sends parts as long as somebody reads."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = [*parts]
        self.num_read = 0

    async def __call__(self) -> dict[str, Any]:
        self.num_read += 1
        body = self._parts.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(self._parts)}


async def answer_to(upload: Upload, length: bytes | None) -> tuple[int, bytes]:
    api = FastAPI()
    install_error_handlers(api)
    api.add_middleware(BodyLimit, max_bytes=LIMIT)

    @api.post("/")
    async def take(body: dict) -> int:
        return len(body)

    headers = [(b"content-type", b"application/json")]
    if length is not None:
        headers.append((b"content-length", length))
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await api(scope, upload, send)
    return sent[0]["status"], sent[1]["body"]


async def test_a_body_within_the_limit_is_read():
    upload = Upload(b'{"a": 1, ', b'"b": "' + b"x" * 80 + b'"}')
    assert await answer_to(upload, None) == (200, b"2")
    assert (await answer_to(Upload(b" " * (LIMIT - 2) + b"{}"), b"%d" % LIMIT))[0] == 200


async def test_a_length_over_the_limit_is_refused_unread():
    upload = Upload(b"x")
    status, body = await answer_to(upload, b"%d" % (LIMIT + 1))
    assert status == 413 and b'"code":"body_too_large"' in body and b"at most 100 bytes" in body
    assert upload.num_read == 0


async def test_a_body_without_a_length_is_read_up_to_the_limit():
    upload = Upload(*[b"x" * 60] * 50)
    status, body = await answer_to(upload, None)
    assert status == 413 and b'"code":"body_too_large"' in body
    assert upload.num_read == 2
    # A length that is a lie changes nothing.
    assert (await answer_to(Upload(*[b"x" * 60] * 50), b"10"))[0] == 413

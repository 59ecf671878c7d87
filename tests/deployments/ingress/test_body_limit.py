"""Bodies that are too large are refused before they are read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI

from deployments.errors import install_error_handlers
from deployments.ingress.body_limit import BodyLimitMiddleware
from deployments.ingress.schemas import NewSession
from deployments.limits import MAX_BODY_BYTES
from deployments.videos.schemas import NewVideo

LIMIT = 100
MANY = {f"field {i}": i for i in range(200_000)}


class Upload:
    """A client that sends parts as long as somebody reads."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = [*parts]
        self.num_read = 0

    async def __call__(self) -> dict[str, Any]:
        self.num_read += 1
        body = self._parts.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(self._parts)}


async def answer_to(
    upload: Upload, length: bytes | None = None, kind: Any = dict, limit: int = LIMIT
) -> tuple[int, bytes]:
    api = FastAPI()
    install_error_handlers(api)
    api.add_middleware(BodyLimitMiddleware, max_bytes=limit)

    async def take(body: Any) -> int:
        return len([*body])

    take.__annotations__["body"] = kind
    api.post("/")(take)

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


@pytest.mark.parametrize("kind", [NewSession, NewVideo])
@pytest.mark.parametrize(
    "body, says",
    [
        (MANY, b"200000 fields"),
        ({"prompt": "x", "resolution": MANY}, b""),
        ({"prompt": "x", "y" * 10**6: 1}, b"extra inputs are not permitted"),
        ({"prompt": "x", "perspective": MANY}, b"'first' or 'third'"),
        ({"prompt": ["x"] * 10**6}, b"prompt: input should be a valid string"),
    ],
    ids=lambda value: "",
)
async def test_the_answer_to_a_long_body_is_short(kind, body, says):
    """A sentence for each field would keep the process from its players, and be longer than the body."""
    upload = Upload(json.dumps(body).encode())
    status, answer = await answer_to(upload, kind=kind, limit=MAX_BODY_BYTES)
    assert status == 422 and says in answer
    # The sentence stands in it twice.
    assert len(answer) < 1200


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "x", "\\ud800": 1}',
        b'{"prompt": "\xff"}',
        b"\xff",
        b"null",
        b"",
    ]
    + [b'{"prompt": "x", "seed": %s}' % seed for seed in (b"NaN", b"1e999", b"9" * 5000)],
    ids=lambda body: body[:30].decode(errors="replace"),
)
async def test_a_body_of_nonsense_is_the_client_s_fault(body):
    status, answer = await answer_to(Upload(body), kind=NewSession, limit=MAX_BODY_BYTES)
    assert status in (400, 422)
    assert set(json.loads(answer)["error"]) == {"code", "message"}
    assert json.loads(answer)["status"] == status

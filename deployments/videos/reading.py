"""An order out of a request's body: JSON, or the form that OpenAI's clients send."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from deployments.errors import ApiError, describe_problems, shortened
from deployments.schemas import MAX_BODY_BYTES
from deployments.videos.forms import Part, read_form
from deployments.videos.schemas import NewVideo

FORM = "multipart/form-data"
_LARGE_BYTES = 1 << 16
_REFERENCE = "input_reference"
"""OpenAI's name for a picture or a video to begin with."""


async def read_order(request: Request) -> NewVideo:
    """The order in a body; raises ApiError (400, 413, 422)."""
    body = await read_body(request, MAX_BODY_BYTES)
    content_type = request.headers.get("content-type", "")
    if len(body) < _LARGE_BYTES:
        return _parsed(body, content_type)
    # Of a file in base64 the loop would not hear for a tenth of a second.
    return await asyncio.to_thread(_parsed, body, content_type)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """A body of at most so many bytes; raises ApiError (413)."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            message = f"a request's body has at most {max_bytes} bytes: send less"
            raise ApiError(413, "body_too_large", message)
    return bytes(body)


def described_body(model: type[BaseModel]) -> dict[str, Any]:
    """The body of an order for the API's description, which FastAPI does not read for us."""
    schema = model.model_json_schema()
    file = {"type": "string", "format": "binary", "description": "a picture or a video to begin with"}
    plain = {name: field for name, field in schema["properties"].items() if name not in ("image", "video")}
    form = {**schema, "properties": {**plain, _REFERENCE: file}}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema}, FORM: {"schema": form}},
        }
    }


def _parsed(body: bytes, content_type: str) -> NewVideo:
    is_form = content_type.partition(";")[0].strip().lower() == FORM
    try:
        data = _from_form(read_form(body, content_type)) if is_form else from_json(body)
    except ValueError as error:
        code, what = ("invalid_form", "") if is_form else ("invalid_json", "the body is not valid JSON: ")
        raise ApiError(400, code, shortened(f"{what}{error}")) from error
    try:
        return NewVideo.model_validate(data)
    except ValidationError as error:
        raise ApiError(422, "invalid_request", describe_problems(error.errors())) from error


def _from_form(parts: list[Part]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for part in parts:
        name = part.name
        if name in (_REFERENCE, "image", "video") and part.is_file:
            if name == _REFERENCE:
                name = "video" if part.media_type.startswith("video/") else "image"
            fields[name] = base64.b64encode(part.data).decode()
        elif part.is_file:
            raise ValueError(f"{shortened(name)}: is no file, send it as a field")
        else:
            fields[name] = part.text
    return fields

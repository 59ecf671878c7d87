"""Parsing of an order's request body: JSON, or the multipart form that OpenAI's clients send (RFC 7578)."""

from __future__ import annotations

import asyncio
import base64
import re
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from json import detect_encoding
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import from_json

from deployments.errors import ApiError, describe_problems, shortened
from deployments.limits import MAX_BODY_BYTES
from deployments.request_schemas import decode_file
from deployments.videos.schemas import NewVideo
from gamegen.media.kinds import is_image, is_video

_FORM = "multipart/form-data"
_LARGE_BODY_BYTES = 1 << 16
_INPUT_REFERENCE = "input_reference"
"""OpenAI's field for a first image or a source video: a file, or an object with its `image_url`."""
_IMAGE_URL = "image_url"
_NESTED = re.compile(rf"{_INPUT_REFERENCE}\[(\w+)\]")
"""Name of the form field of one key of that object, as OpenAI's client sends it."""
_MAX_FORM_PARTS = 64
_MAX_HEADER_BYTES = 4096
_REMEDY = "send it as multipart/form-data, as curl -F or the openai client do"


@dataclass(frozen=True, kw_only=True)
class FormPart:
    """A part of a multipart form."""

    name: str
    data: bytes
    media_type: str
    is_file: bool

    @property
    def text(self) -> str:
        """The value of a text field; raises ValueError for bytes that are not UTF-8."""
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.name}: not text in UTF-8") from error


async def parse_order(request: Request) -> NewVideo:
    """The order in a request's body; raises ApiError (400, 413, 422)."""
    body = await _read_body(request)
    content_type = request.headers.get("content-type", "")
    if len(body) < _LARGE_BODY_BYTES:
        return _parse(body, content_type)
    # Decoding a large file from base64 would block the event loop for a tenth of a second.
    return await asyncio.to_thread(_parse, body, content_type)


def order_body_schema() -> dict[str, Any]:
    """The OpenAPI request body of an order, which FastAPI cannot derive since the route parses the body itself."""
    schema = NewVideo.model_json_schema()
    described = {"description": "a first image, or a video to continue"}
    file = {"type": "string", "format": "binary", **described}
    text = {"type": "string", "format": "base64"}
    nested = {"type": "object", "properties": {_IMAGE_URL: text}, "required": [_IMAGE_URL]}
    reference = {"anyOf": [text, nested, {"type": "null"}], "default": None, **described}
    plain = {name: field for name, field in schema["properties"].items() if name not in ("image", "video")}
    form = {**schema, "properties": {**plain, _INPUT_REFERENCE: file}}
    json = {**schema, "properties": {**schema["properties"], _INPUT_REFERENCE: reference}}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": json}, _FORM: {"schema": form}},
        }
    }


def parse_form(body: bytes, content_type: str) -> list[FormPart]:
    """The parts of a multipart form in their order; raises ValueError for a malformed one."""
    boundary = _boundary(content_type)
    # The delimiter begins with the line's end before it, which the first one may lack.
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary, _MAX_FORM_PARTS + 2)
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        problem = (
            f"has more than {_MAX_FORM_PARTS} parts" if len(pieces) > _MAX_FORM_PARTS else "ends too early"
        )
        raise ValueError(f"the form {problem}: {_REMEDY}")
    return [_form_part(piece) for piece in pieces[1:-1]]


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            message = f"a request's body has at most {MAX_BODY_BYTES} bytes: send less"
            raise ApiError(413, "body_too_large", message)
    return bytes(body)


def _parse(body: bytes, content_type: str) -> NewVideo:
    is_form = content_type.partition(";")[0].strip().lower() == _FORM
    try:
        data = _form_fields(parse_form(body, content_type)) if is_form else _json(body)
    except ValueError as error:
        code, prefix = ("invalid_form", "") if is_form else ("invalid_json", "the body is not valid JSON: ")
        raise ApiError(400, code, shortened(f"{prefix}{error}")) from error
    try:
        return NewVideo.model_validate(_with_reference(data))
    except ValidationError as error:
        raise ApiError(422, "invalid_request", describe_problems(error.errors())) from error


def _json(body: bytes) -> Any:
    # As the other routes read it: UTF-8 with or without a byte order mark, UTF-16 and UTF-32.
    return from_json(body.decode(detect_encoding(body)))


def _with_reference(data: Any) -> Any:
    """The fields of an order with `input_reference`, a text or OpenAI's object, as its image or video.

    Raises ApiError (422).
    """
    if not isinstance(data, dict) or _INPUT_REFERENCE not in data:
        return data
    reference = data[_INPUT_REFERENCE]
    others = {name: value for name, value in data.items() if name != _INPUT_REFERENCE}
    if reference is None:
        return others
    place = _INPUT_REFERENCE
    if isinstance(reference, dict):
        given = {name: value for name, value in reference.items() if value is not None}
        if given.keys() != {_IMAGE_URL}:
            raise _invalid(
                place, f"no files are kept here under an id: send {{{_IMAGE_URL!r}: 'data:...'}} alone"
            )
        place, reference = f"{place}.{_IMAGE_URL}", given[_IMAGE_URL]
    for name in ("image", "video"):
        if others.get(name) is not None:
            raise _invalid(place, f"it says the same as {name}, leave one out")
    try:
        file = decode_file(reference)
    except ValueError as error:
        raise _invalid(place, str(error)) from error
    declared = reference[len("data:") :] if isinstance(reference, str) else ""
    return {**others, _field_of(file, declared): file}


def _invalid(place: str, problem: str) -> ApiError:
    return ApiError(422, "invalid_request", f"{place}: {problem}")


def _form_fields(parts: list[FormPart]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    reference: dict[str, str] = {}
    for part in parts:
        # A field left empty is as good as none: pages and low-code tools send all of a form's.
        if not part.data:
            continue
        name = part.name
        if name in (_INPUT_REFERENCE, "image", "video") and part.is_file:
            if name == _INPUT_REFERENCE:
                name = _field_of(part.data, part.media_type)
            fields[name] = base64.b64encode(part.data).decode()
        elif part.is_file:
            raise ValueError(f"{shortened(name)}: not a file field, send it as text")
        elif nested := _NESTED.fullmatch(name):
            reference[nested[1]] = part.text
        else:
            fields[name] = part.text
    return {**fields, _INPUT_REFERENCE: reference} if reference else fields


def _field_of(file: bytes, declared_type: str) -> str:
    """The media kind of a file by its bytes, `image` or `video`; by the declared type if they do not tell."""
    if is_image(file) or is_video(file):
        return "video" if is_video(file) else "image"
    return "video" if declared_type.lower().startswith("video/") else "image"


def _boundary(content_type: str) -> bytes:
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_boundary()
    if not boundary or not boundary.isascii() or len(boundary) > 70:
        raise ValueError(f"the form has no boundary: {_REMEDY}")
    return boundary.encode()


def _form_part(piece: bytes) -> FormPart:
    headers, empty_line, data = piece.partition(b"\r\n\r\n")
    if not empty_line or len(headers) > _MAX_HEADER_BYTES:
        raise ValueError(f"a part of the form has no headers: {_REMEDY}")
    parsed = BytesHeaderParser().parsebytes(headers.lstrip(b" \t").removeprefix(b"\r\n") + b"\r\n\r\n")
    name = parsed.get_param("name", header="content-disposition")
    if not isinstance(name, str) or parsed.get_content_disposition() != "form-data":
        raise ValueError(f"a part of the form has no name: {_REMEDY}")
    return FormPart(
        name=name,
        data=data,
        media_type=parsed.get_content_type(),
        is_file=parsed.get_filename() is not None,
    )

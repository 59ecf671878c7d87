"""Base types of the JSON request bodies of all routes."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema, model_validator

from deployments.limits import MAX_FILE_CHARACTERS

_MAX_FIELDS = 32


class RequestBody(BaseModel):
    """A request's body, or an object in one; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_count(cls, data: Any) -> Any:
        # An error for each of a million fields would keep the process busy for a quarter of a minute.
        if isinstance(data, dict) and len(data) > _MAX_FIELDS:
            raise ValueError(f"{len(data)} fields: there are {len(cls.model_fields)}, see /docs")
        return data


def _decoded(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError("not text: send the bytes of the file in base64")
    if len(text) > MAX_FILE_CHARACTERS:
        raise ValueError(
            f"{len(text)} characters and the limit is {MAX_FILE_CHARACTERS}: send a smaller file"
        )
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError("not valid base64: send the bytes of the file in base64") from error


Base64File = Annotated[
    bytes,
    BeforeValidator(_decoded),
    WithJsonSchema({"type": "string", "format": "base64", "maxLength": MAX_FILE_CHARACTERS}),
]
"""The bytes of a file, sent as base64 text of at most `MAX_FILE_CHARACTERS` characters."""

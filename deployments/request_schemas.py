"""Base types of the JSON request bodies of all routes."""

from __future__ import annotations

import base64
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema, model_validator

from deployments.limits import MAX_FILE_CHARACTERS

_MAX_FIELDS = 32
_URL_ALPHABET = str.maketrans("-_", "+/")


def without_nulls(model: type[BaseModel], data: Any) -> Any:
    """The data of a model without fields that are null and may be left out: null means the same as nothing."""
    if not isinstance(data, dict):
        return data
    optional = {name for name, field in model.model_fields.items() if not field.is_required()}
    return {name: value for name, value in data.items() if value is not None or name not in optional}


class RequestBody(BaseModel):
    """A request's body, or an object in one; unknown fields are errors, optional ones may be null."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_count(cls, data: Any) -> Any:
        # An error for each of a million fields would keep the process busy for a quarter of a minute.
        if isinstance(data, dict) and len(data) > _MAX_FIELDS:
            raise ValueError(f"{len(data)} fields: there are {len(cls.model_fields)}, see /docs")
        return without_nulls(cls, data)


def decode_file(text: Any) -> bytes:
    """The bytes of a file in base64, also in lines, in base64url without padding, or as a `data:` address.

    Raises ValueError, which says what to send.
    """
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise ValueError("not text: send the bytes of the file in base64")
    if len(text) > MAX_FILE_CHARACTERS:
        raise ValueError(
            f"{len(text)} characters and the limit is {MAX_FILE_CHARACTERS}: send a smaller file"
        )
    scheme = text[:8].partition(":")[0].lower()
    if scheme in ("http", "https"):
        raise ValueError("an address, and nothing is fetched from one: send the bytes of the file in base64")
    if scheme == "data":
        kind, comma, text = text.partition(",")
        if not comma or not kind.lower().endswith(";base64"):
            raise ValueError("not a data: address in base64: write data:image/png;base64, and the bytes")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        pass
    # Lines as `base64` and MIME write them, the alphabet of URLs, padding left out or escaped.
    plain = "".join(unquote(text).split()).translate(_URL_ALPHABET).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError as error:
        raise ValueError("not valid base64: send the bytes of the file in base64") from error


Base64File = Annotated[
    bytes,
    BeforeValidator(decode_file),
    WithJsonSchema({"type": "string", "format": "base64", "maxLength": MAX_FILE_CHARACTERS}),
]
"""The bytes of a file, sent as text of at most `MAX_FILE_CHARACTERS` characters: see `decode_file`."""

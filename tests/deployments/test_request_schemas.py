"""What every JSON body takes: null for what may be left out, and files in any form of base64."""

from __future__ import annotations

import base64
import textwrap
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from deployments.ingress.schemas import Branch, NewSession, NewVideoPrompt, OneShot
from deployments.request_schemas import decode_file
from deployments.stream.client_messages import Camera, SpokenInstruction
from deployments.videos.schemas import Kept, NewVideo

DATA = bytes(range(256)) * 3 + b"\xfb\xff"
PLAIN = base64.b64encode(DATA).decode()
LINES = "\r\n".join(textwrap.wrap(PLAIN, 76))
URL_SAFE = base64.urlsafe_b64encode(DATA).decode()

MODELS: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (NewVideo, {"prompt": "a lake"}),
    (NewSession, {"prompt": "a lake"}),
    (NewSession, {"branch": {"session_id": "a", "resume_token": "b"}}),
    (Branch, {"session_id": "a", "resume_token": "b"}),
    (NewVideoPrompt, {"resume_token": "b", "kind": "canny", "video": PLAIN}),
    (OneShot, {"session_id": "a", "resume_token": "b"}),
    (Kept, {}),
    (Camera, {}),
    (SpokenInstruction, {"text": "rain"}),
]


@pytest.mark.parametrize(("model", "body"), MODELS, ids=lambda value: getattr(value, "__name__", ""))
def test_null_is_the_same_as_nothing(model, body):
    left_out = {name: None for name, field in model.model_fields.items() if name not in body}
    plain, null = model.model_validate(body), model.model_validate({**left_out, **body})
    assert null == plain and null.model_fields_set == plain.model_fields_set


@pytest.mark.parametrize("body", [{"prompt": None}, {"prompt": "a", "colour": None}])
def test_null_does_not_stand_for_what_is_needed_or_unknown(body):
    with pytest.raises(ValidationError):
        NewVideo.model_validate(body)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.rstrip("="),
        LINES,
        f"{LINES}\n",
        URL_SAFE,
        URL_SAFE.rstrip("="),
        f"data:image/png;base64,{PLAIN}",
        f"DATA:image/png;charset=x;BASE64,{LINES}",
        f"data:;base64,{URL_SAFE}",
        f"data:image/png;base64,{PLAIN.replace('=', '%3D').replace('+', '%2B')}",
    ],
)
def test_base64_is_read_as_programs_write_it(text):
    assert decode_file(text) == DATA


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("https://example.com/a.png", "nothing is fetched"),
        ("HTTP://example.com/a.png", "nothing is fetched"),
        ("data:image/png,%89PNG", "write data:image/png;base64"),
        ("data:image/png;base64", "write data:image/png;base64"),
        ("file:///etc/passwd", "not valid base64"),
        ("Zg==Zg==", "not valid base64"),
        ("a", "not valid base64"),
        ("ä", "not valid base64"),
        (7, "not text"),
    ],
)
def test_what_is_no_base64_is_told_from_what_is(text, says):
    with pytest.raises(ValueError, match=says):
        decode_file(text)

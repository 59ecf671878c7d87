"""Forms are read as they were written, or refused."""

from __future__ import annotations

import os

import httpx
import pytest

from deployments.videos.parsing import parse_form
from deployments.videos.presets import ASPECT_RATIOS, RESOLUTIONS, STYLES, size_of, styled
from gamegen.media.size import check_size

TYPE = "multipart/form-data; boundary=x"


def written(**options) -> tuple[bytes, str]:
    request = httpx.Request("POST", "http://a/", **options)
    return request.read(), request.headers["content-type"]


def test_what_clients_write_is_read():
    data = os.urandom(100_000) + b"\r\n--x\r\n\r\n"
    body, content_type = written(
        data={"prompt": "naïve", "n": "1"}, files={"f": ("a b.png", data, "image/png")}
    )
    prompt, number, file = parse_form(body, content_type)
    assert (prompt.name, prompt.text, prompt.is_file) == ("prompt", "naïve", False)
    assert (number.name, number.text) == ("n", "1")
    assert (file.name, file.data, file.media_type, file.is_file) == ("f", data, "image/png", True)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", TYPE),
        (b"--x--", TYPE),
        (b"--x\r\n", TYPE),
        (b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nb", TYPE),
        (b"--x\r\nno headers\r\n--x--", TYPE),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\nb\r\n--x--", TYPE),
        (b"--x\r\nContent-Disposition: attachment; name=a\r\n\r\nb\r\n--x--", TYPE),
        (b"--x\r\nA: " + b"a" * 5000 + b"\r\n\r\nb\r\n--x--", TYPE),
        (b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n" * 70 + b"--x--", TYPE),
        (b"--x--", "multipart/form-data"),
        (b"--x--", "multipart/form-data; boundary=" + "x" * 71),
        (b"--x--", "multipart/form-data; boundary=é"),
    ],
)
def test_what_is_no_form_is_refused(body, content_type):
    with pytest.raises(ValueError, match="send it as multipart/form-data"):
        parse_form(body, content_type)


def test_fields_that_are_no_text_are_refused():
    (part,) = parse_form(b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n\xff\r\n--x--", TYPE)
    with pytest.raises(ValueError, match="a: not text in UTF-8"):
        _ = part.text


def test_every_size_can_be_drawn():
    for resolution in RESOLUTIONS:
        check_size(*size_of(resolution, None))
        for ratio, (across, down) in ASPECT_RATIOS.items():
            width, height = size_of(resolution, ratio)
            check_size(width, height)
            assert abs(width / height - across / down) < 0.2 * across / down


def test_a_style_adds_its_words():
    assert styled("a lake", None) == "a lake"
    assert styled("a lake", "noir") == f"a lake, {STYLES['noir']}"

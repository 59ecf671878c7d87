"""Forms are read as they were written, or refused."""

from __future__ import annotations

import os

import httpx
import pytest

from deployments.videos.parsing import parse_form
from deployments.videos.presets import ASPECT_RATIOS, RESOLUTIONS, size_of
from gamegen.generation.drawn_size import drawn_size
from gamegen.media.size import Size, check_file_size, check_size

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


def test_every_size_can_be_written_and_is_drawn_at_about_the_models_own():
    own = Size(160, 96)
    for resolution, whole in RESOLUTIONS.items():
        for ratio, (across, down) in {"": whole, **ASPECT_RATIOS}.items():
            size = size_of(resolution, ratio or None)
            check_file_size(*size)
            assert abs(size.width / size.height - across / down) < 0.01 * across / down
            drawn = drawn_size(size, own)
            check_size(*drawn)
            assert 0.75 * own.num_pixels <= drawn.num_pixels <= 1.1 * own.num_pixels
            kept = drawn.width * size.height / (drawn.height * size.width)
            assert 0.92 < kept < 1 / 0.92


def test_sizes_are_the_usual_ones():
    assert size_of("1080p", "16:9") == (1920, 1080) and size_of("720p", "9:16") == (720, 1280)
    assert size_of("4k", None) == (3840, 2160) and size_of("480p", "4:3") == (640, 480)
    assert size_of("nano", "16:9") == (160, 90) and size_of("nano", "1:1") == (128, 128)


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ("160x96", "160x96"),
        ("64x48", "64x48"),
        ("1280x720", "160x96"),
        ("720x1280", "96x160"),
        ("256x144", "160x96"),
        ("100x100", "128x128"),
        ("640x160", "256x64"),
    ],
)
def test_what_a_model_draws_well_is_drawn_as_it_was_asked(asked, drawn):
    assert str(drawn_size(Size.parse(asked), Size(160, 96))) == drawn

"""docs/protocol.md says what the code does, and its client plays."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import struct
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import websockets

from deployments.limits import MAX_BODY_BYTES, MAX_SOCKET_MESSAGE_BYTES
from deployments.settings import IngressSettings
from deployments.stream import client_messages, socket_connection, wire
from deployments.stream.client_messages import ClientMessage, parse_client_message
from deployments.stream.player import MAX_FOLLOWED
from deployments.stream.video_prompt_loader import MAX_PER_S
from gamegen.controls import KEYS
from gamegen.media.first_frames import MAX_FIRST_CHUNKS
from gamegen.media.fmp4 import CODEC, encode_chunk, split_init
from gamegen.media.images import MAX_IMAGE_PIXELS
from gamegen.media.untrusted import MAX_PROMPT_S, MAX_VIDEO_FRAMES, MAX_VIDEO_PIXELS, MAX_VIDEO_S
from gamegen.sessions.log_file import MAX_VIDEO_PROMPTS
from loadtest.players.socket_player import FINAL_CLOSE_CODES
from tests.serving import streaming

REPOSITORY = Path(__file__).parents[3]
DOCUMENT = (REPOSITORY / "docs" / "protocol.md").read_text()
MANUAL = (REPOSITORY / "deployments" / "web" / "docs.html").read_text()
BYTES_OF = {"2 bytes": 2, "uint8": 1, "uint16": 2, "uint32": 4, "float32": 4, "float64": 8}
DEPLOYMENTS = REPOSITORY / "deployments"
SENDERS = (*sorted((DEPLOYMENTS / "stream").glob("*.py")), DEPLOYMENTS / "ingress" / "play_routes.py")


def section(title: str) -> str:
    """From a heading to the next one of any level."""
    return re.split(r"^#+ ", DOCUMENT.split(f" {title}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, its head left out."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines[2:]]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def examples(title: str) -> list[dict]:
    """The JSON objects of a section's examples; one may have several lines."""
    found, (text,) = [], blocks(section(title), "json")
    while text:
        value, end = json.JSONDecoder().raw_decode(text)
        found.append(value)
        text = text[end:].lstrip()
    return found


def server_types() -> set[str]:
    """The types of all messages that the code sends."""
    source = "".join(file.read_text() for file in SENDERS)
    return set(re.findall(r'"type": "(\w+)"', source)) - {"hello"}


def test_message_types_are_those_of_the_code():
    client_types = {get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(ClientMessage)}
    assert [row[0] for row in rows("Messages you send")] == list(client_messages._TYPES)
    assert {row[0] for row in rows("Messages you send")} == client_types
    assert {row[0] for row in rows("Messages you get")} == server_types()
    for kind in client_types | server_types():
        assert f"<code>{kind}</code>" in MANUAL or f'"type": "{kind}"' in MANUAL


def test_examples_are_messages():
    sent = examples("Messages you send")
    assert {message["type"] for message in sent} == set(client_messages._TYPES)
    for message in sent:
        parse_client_message(json.dumps(message), 1000)
    got = {message["type"]: set(message) for message in examples("Messages you get")}
    assert set(got) == server_types()
    for kind, fields, *_ in rows("Messages you get"):
        for name in got[kind] - {"type"}:
            assert f"`{name}`" in f"`{fields}`", f"{kind}.{name}"


def test_a_manual_s_examples_are_messages():
    pre = re.search(r"<pre>(.*?)</pre>", MANUAL, flags=re.S)
    text, kinds = pre[1], []
    while text:
        value, end = json.JSONDecoder().raw_decode(text)
        kinds.append(parse_client_message(json.dumps(value), 1000).type)
        text = text[end:].lstrip()
    assert kinds == list(client_messages._TYPES)


def test_close_codes_are_those_of_the_code():
    codes = {int(row[0]): row[1] == "yes" for row in rows("Close codes")}
    assert set(codes) == {
        value for name, value in vars(socket_connection).items() if name.startswith("CLOSE_")
    }
    assert {code for code, is_final in codes.items() if is_final} == FINAL_CLOSE_CODES
    page = (REPOSITORY / "deployments" / "web" / "stream.js").read_text()
    constants = dict(re.findall(r"const (CLOSE_\w+) = (\d+);", page))
    final = re.search(r"FINAL = new Set\(\[(.*?)\]\)", page)
    assert {int(constants[name]) for name in final[1].split(", ")} == FINAL_CLOSE_CODES
    assert all(f"<code>{code}</code>" in MANUAL for code in codes)


@pytest.mark.parametrize(
    "title, layout, size, version",
    [
        ("Frames", wire._HEADER, wire.HEADER_BYTES, wire.VERSION),
        ("Controls in 22 bytes", wire._CONTROL, 22, wire.CONTROL_VERSION),
    ],
)
def test_binary_layouts_are_those_of_the_code(title, layout: struct.Struct, size, version):
    fields = [(int(offset), BYTES_OF[kind]) for offset, kind, _ in rows(title)]
    ends = [offset + length for offset, length in fields]
    assert [offset for offset, _ in fields] == [0, *ends[:-1]]
    assert ends[-1] == layout.size == size
    assert f"version, {version}" in section(title)
    assert f"{size} bytes" in DOCUMENT


def test_fragments_and_init_segments_are_those_of_the_code():
    ((offset, kind, _),) = rows("Fragments")
    assert int(offset) == wire.HEADER_BYTES
    assert int(offset) + BYTES_OF[kind] == wire.FRAGMENT_HEADER_BYTES
    text = section("Fragments")
    assert f"a header of {wire.FRAGMENT_HEADER_BYTES} bytes" in text and CODEC in text and CODEC in MANUAL
    assert f"of {wire.FRAGMENT_HEADER_BYTES} bytes" in MANUAL.replace("\n        ", " ")
    for magic in (wire.FRAGMENT_MAGIC, wire.INIT_MAGIC):
        assert f"`{magic.decode()}`" in text and f"<code>{magic.decode()}</code>" in MANUAL
    init = wire.pack_init(b"ftyp")
    assert init == b"GI" + bytes([wire.INIT_VERSION, 0]) + b"ftyp"
    assert re.search(rf"`GI`, uint8\s+version, {wire.INIT_VERSION}, a zero byte", text)
    page = (REPOSITORY / "deployments" / "web" / "fragments.js").read_text()
    assert f'CODEC = "{CODEC}"' in page


def test_the_sizes_in_a_fragment_are_where_the_document_says():
    _, fragment = split_init(encode_chunk(np.zeros((4, 32, 32, 3), np.uint8), 0))
    run = fragment.index(b"trun") - 4
    first, last = map(int, re.search(r"at its bytes (\d+) to (\d+)", section("Fragments")).groups())
    sizes = struct.unpack(">4I", fragment[run + first : run + last + 1])
    assert sum(sizes) == len(fragment) - fragment.index(b"mdat") - 4


def test_frame_header_s_offsets_and_the_client_s_layout():
    assert [int(row[0]) for row in rows("Frames")] == [
        offset for _, offset in wire.HEADER_DTYPE.fields.values()
    ]
    assert wire._HEADER.format in blocks(DOCUMENT, "python")[0]


def test_binary_control_example_and_bits():
    text = re.search(r"`w` and `left`, yaw 1.5, timestamp 1234.5: `([0-9a-f ]+)`", DOCUMENT)
    control = wire.unpack_control(bytes.fromhex(text[1]))
    assert control == wire.BinaryControl(
        keys=frozenset({"w", "left"}), yaw_deg=1.5, pitch_deg=0, timestamp=1234.5
    )
    bits = {row[0]: row[2] for row in rows("Controls in 22 bytes")}["4"]
    assert re.findall(r"(\d+) `(\w+)`?", bits) == [(str(1 << i), key) for i, key in enumerate(KEYS)]


def test_error_codes_are_those_of_the_code():
    source = "".join(file.read_text() for file in SENDERS)
    encode = (DEPLOYMENTS / "prompts.py").read_text()
    encode_video = (DEPLOYMENTS / "ingress" / "uploads.py").read_text().split("async def _encoded", 1)[1]
    stream = "".join(file.read_text() for file in (DEPLOYMENTS / "stream").glob("*.py"))
    limits = (DEPLOYMENTS / "rate_limit.py").read_text()
    of_user = (DEPLOYMENTS / "errors.py").read_text().split("def user_full", 1)[1].split("def ", 1)[0]
    raised = re.findall(r'ApiError\(\d+, "(\w+)"', encode + encode_video + stream + limits + of_user)
    codes = {*re.findall(r'send_error\(\s*"(\w+)"', source), *raised}
    assert {row[0] for row in rows("Error codes")} == codes


def test_limits_are_the_settings():
    settings = {field.name: field.default for field in dataclasses.fields(IngressSettings)}
    for name, default, _ in rows("Limits"):
        assert float(default) == settings[name], name
    assert f"More than {socket_connection._MAX_ERRORS_PER_S} wrong messages" in DOCUMENT
    assert f"at most {MAX_BODY_BYTES / 2**20:g} MiB" in DOCUMENT.replace("\n", " ")
    assert str(client_messages.MAX_SEQUENCE) in section("Messages you send")
    first = section("First frames")
    assert f"{MAX_VIDEO_S:g} s, {MAX_VIDEO_FRAMES} frames and 1920x1080 pixels" in first.replace("\n ", "")
    assert MAX_VIDEO_PIXELS == 1920 * 1080 and MAX_IMAGE_PIXELS == 4096 * 4096 and "4096x4096" in first
    assert f"{MAX_FIRST_CHUNKS} at most" in first
    # What is a little too large is told so by its own limit, not by the request's.
    largest = max(settings["max_image_bytes"], settings["max_video_bytes"])
    assert 4 / 3 * 1.1 * largest < MAX_BODY_BYTES
    prompts = section("Video prompts")
    assert f"{MAX_VIDEO_PROMPTS} of a session" in prompts and f"{MAX_PROMPT_S:g} s" in prompts
    assert f"{MAX_FOLLOWED} times" in prompts and f"\n{MAX_PER_S} times a second" in prompts
    for name in ("max_image_bytes", "max_video_bytes", "max_video_prompt_bytes"):
        with pytest.raises(ValueError, match=f"{name} = .*: use a number from 1 to {settings[name]}"):
            IngressSettings(**{name: settings[name] + 1})


def test_the_client_in_the_document_plays(address, client):
    (source,) = blocks(DOCUMENT, "python")
    program: dict = {"__name__": "client"}
    exec(compile(source, "docs/protocol.md", "exec"), program)
    frames = asyncio.run(program["play"](address, "a green forest", 60))
    assert [sequence for sequence, *_ in frames] == list(range(60))
    assert all(jpeg.startswith(b"\xff\xd8") for *_, jpeg in frames)
    assert frames[-1][2] == frames[-2][2] > 0
    due_ms = [frame[3] for frame in frames]
    assert due_ms == sorted(due_ms)
    # It said goodbye, so nothing of it is left.
    assert client.get("/v1/sessions").json()["sessions"] == []


async def test_the_server_declines_to_compress_and_takes_no_large_message(address, begin):
    async with streaming(address, begin()) as player:
        assert "permessage-deflate" in player.socket.request.headers["Sec-WebSocket-Extensions"]
        assert "Sec-WebSocket-Extensions" not in player.socket.response.headers
        await player.frame()
        await player.socket.send(bytes(MAX_SOCKET_MESSAGE_BYTES + 1))
        with pytest.raises(websockets.ConnectionClosed):
            while True:
                await player.frame()
        assert player.socket.close_code == 1009
    assert f"over {MAX_SOCKET_MESSAGE_BYTES // 1024} KiB" in DOCUMENT

"""The stream's binary messages."""

from __future__ import annotations

import pytest

from deployments.stream.wire import (
    FRAGMENT_HEADER_BYTES,
    HEADER_BYTES,
    FrameHeader,
    pack_fragment,
    pack_init,
    unpack_fragment,
    unpack_frame,
    unpack_init,
)


@pytest.mark.parametrize("timestamp", [None, 1234567.25])
def test_frame_header_round_trip(timestamp):
    header = FrameHeader(
        frame=3,
        sequence=99,
        chunk=24,
        control_timestamp=timestamp,
        step_ms=41.5,
        decode_ms=8.25,
        wait_ms=12.5,
        due_ms=99.25,
    )
    assert len(header.pack()) == HEADER_BYTES == 40
    assert unpack_frame(header.pack() + b"jpeg") == (header, b"jpeg")


def test_foreign_frames_are_refused():
    with pytest.raises(ValueError, match="at least 40 bytes"):
        unpack_frame(b"GG")
    with pytest.raises(ValueError, match="version 2"):
        unpack_frame(b"XX\x01" + bytes(40))


def test_fragment_round_trip():
    header = FrameHeader(
        frame=0,
        sequence=96,
        chunk=24,
        control_timestamp=7.0,
        step_ms=41.5,
        decode_ms=8.25,
        wait_ms=12.5,
        due_ms=1000.0,
    )
    message = pack_fragment(header, 62.5, b"moof")
    assert len(message) == FRAGMENT_HEADER_BYTES + 4 == 48
    headers, fragment = unpack_fragment(message)
    assert fragment == b"moof" and headers[0] == header
    assert [(h.frame, h.sequence) for h in headers] == [(0, 96), (1, 97), (2, 98), (3, 99)]
    assert [h.due_ms for h in headers] == [1000.0, 1062.5, 1125.0, 1187.5]
    assert unpack_init(pack_init(b"ftyp")) == b"ftyp"


def test_each_kind_of_binary_message_is_told_from_the_others():
    header = FrameHeader(
        frame=0,
        sequence=96,
        chunk=24,
        control_timestamp=None,
        step_ms=41.5,
        decode_ms=8.25,
        wait_ms=12.5,
        due_ms=1000.0,
    )
    frame, fragment, init = (
        header.pack() + b"jpeg",
        pack_fragment(header, 40.0, b"moof"),
        pack_init(bytes(50)),
    )
    readers = {frame: unpack_frame, fragment: unpack_fragment, init: unpack_init}
    for message in readers:
        for own, reader in readers.items():
            if own != message:
                with pytest.raises(ValueError, match="it begins with"):
                    reader(message)
    with pytest.raises(ValueError, match="a fragment message has at least 44 bytes, got 43"):
        unpack_fragment(fragment[:43])
    with pytest.raises(ValueError, match="an init message has at least 4 bytes, got 2"):
        unpack_init(b"GI")

"""The stream's binary side: a fixed header before each JPEG or fragment, and controls in a few bytes.

Little-endian. A frame, 40 bytes and then a JPEG file:

| offset | type    | field |
|--------|---------|-------|
| 0      | 2 bytes | `GG`  |
| 2      | uint8   | header version, 2 |
| 3      | uint8   | frame in its chunk, 0 to 3 |
| 4      | uint32  | sequence: frames made in this session so far; a gap means that frames were dropped |
| 8      | uint32  | chunk |
| 12     | float64 | timestamp of the newest control message in this chunk, as it was sent; NaN if none |
| 20     | float32 | time of the model's step in milliseconds |
| 24     | float32 | time of the decoder until it had this frame in milliseconds |
| 28     | float32 | time from that control message's arrival to the beginning of its step, in milliseconds |
| 32     | float64 | when the frame is due, in milliseconds of the server's clock |

A chunk as a fragment of MP4, 44 bytes and then the fragment: the same of its first frame, but with the magic `GV`, and

| offset | type    | field |
|--------|---------|-------|
| 40     | float32 | time between its frames in milliseconds |

The init segment that fragments are read with, before the first of them: `GI`, version 1, zero, and the segment.

A control message, 22 bytes. It names all keys that are down, where the JSON message names those that changed, and has
neither a turn nor an instruction nor a video prompt:

| offset | type    | field |
|--------|---------|-------|
| 0      | 2 bytes | `GC`  |
| 2      | uint8   | version, 1 |
| 3      | uint8   | zero |
| 4      | uint16  | all keys that are down, a bit each: w a s d space e q left right up down |
| 6      | float32 | yaw in degrees a frame |
| 10     | float32 | pitch in degrees a frame |
| 14     | float64 | timestamp |

Due times are even where arrivals are not: show each frame at its due time plus a constant delay.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace

import numpy as np

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.controls import KEYS, MAX_CAMERA_DEG

MAGIC = b"GG"
VERSION = 2
_HEADER = struct.Struct("<2sBBIIdfffd")
HEADER_BYTES = _HEADER.size
FRAGMENT_MAGIC = b"GV"
_INTERVAL = struct.Struct("<f")
FRAGMENT_HEADER_BYTES = HEADER_BYTES + _INTERVAL.size
INIT_MAGIC = b"GI"
INIT_VERSION = 1
_INIT = struct.Struct("<2sBx")
CONTROL_MAGIC = b"GC"
CONTROL_VERSION = 1
_CONTROL = struct.Struct("<2sBxHffd")
_SEQUENCE = struct.Struct("<4xI")
_KINDS = {MAGIC: "a frame", FRAGMENT_MAGIC: "a fragment", INIT_MAGIC: "an init"}
HEADER_DTYPE = np.dtype(
    [
        ("magic", "S2"),
        ("version", "u1"),
        ("frame", "u1"),
        ("sequence", "<u4"),
        ("chunk", "<u4"),
        ("control_timestamp", "<f8"),
        ("step_ms", "<f4"),
        ("decode_ms", "<f4"),
        ("wait_ms", "<f4"),
        ("due_ms", "<f8"),
    ]
)
"""Header fields as a NumPy type, to read many headers at once; `control_timestamp` is NaN where there is none."""


@dataclass(frozen=True, kw_only=True)
class FrameHeader:
    """Header of one frame; times are milliseconds, `control_timestamp` is None before the first control."""

    frame: int
    sequence: int
    chunk: int
    control_timestamp: float | None
    step_ms: float
    decode_ms: float
    wait_ms: float
    due_ms: float

    def pack(self) -> bytes:
        """The header's bytes."""
        return _HEADER.pack(
            MAGIC,
            VERSION,
            self.frame,
            self.sequence,
            self.chunk,
            math.nan if self.control_timestamp is None else self.control_timestamp,
            self.step_ms,
            self.decode_ms,
            self.wait_ms,
            self.due_ms,
        )


def unpack_frame(message: bytes) -> tuple[FrameHeader, bytes]:
    """A frame message's header and JPEG file; raises ValueError if it is not one."""
    return _unpack_header(message, MAGIC, HEADER_BYTES), message[HEADER_BYTES:]


def _unpack_header(message: bytes, expected: bytes, num_bytes: int) -> FrameHeader:
    _check_beginning(message, expected, VERSION, num_bytes)
    _, _, frame, sequence, chunk, timestamp, step_ms, decode_ms, wait_ms, due_ms = _HEADER.unpack_from(
        message
    )
    return FrameHeader(
        frame=frame,
        sequence=sequence,
        chunk=chunk,
        control_timestamp=None if math.isnan(timestamp) else timestamp,
        step_ms=step_ms,
        decode_ms=decode_ms,
        wait_ms=wait_ms,
        due_ms=due_ms,
    )


def _check_beginning(message: bytes, magic: bytes, version: int, num_bytes: int) -> None:
    """Raises ValueError unless a message has this magic, this version, and at least so many bytes."""
    kind = _KINDS[magic]
    if len(message) < num_bytes:
        raise ValueError(f"{kind} message has at least {num_bytes} bytes, got {len(message)}")
    if not message.startswith(magic + bytes([version])):
        raise ValueError(f"not {kind} message of version {version}: it begins with {message[:3]!r}")


def pack_fragment(header: FrameHeader, interval_ms: float, fragment: bytes) -> bytes:
    """A fragment message: the header of its first frame, the time between its frames, and the fragment."""
    return FRAGMENT_MAGIC + header.pack()[len(MAGIC) :] + _INTERVAL.pack(interval_ms) + fragment


def unpack_fragment(message: bytes) -> tuple[list[FrameHeader], bytes]:
    """The headers of a fragment's frames, each with its own due time, and the fragment; raises ValueError."""
    first = _unpack_header(message, FRAGMENT_MAGIC, FRAGMENT_HEADER_BYTES)
    (interval_ms,) = _INTERVAL.unpack_from(message, HEADER_BYTES)
    headers = [
        replace(first, frame=i, sequence=first.sequence + i, due_ms=first.due_ms + i * interval_ms)
        for i in range(FRAMES_PER_CHUNK)
    ]
    return headers, message[FRAGMENT_HEADER_BYTES:]


def pack_init(init: bytes) -> bytes:
    """The message of an init segment."""
    return _INIT.pack(INIT_MAGIC, INIT_VERSION) + init


def unpack_init(message: bytes) -> bytes:
    """The init segment of its message; raises ValueError if it is not one."""
    _check_beginning(message, INIT_MAGIC, INIT_VERSION, _INIT.size)
    return message[_INIT.size :]


@dataclass(frozen=True, kw_only=True)
class BinaryControl:
    """Control message in binary: all keys that are down, and the camera's motion in degrees a frame."""

    keys: frozenset[str]
    yaw_deg: float
    pitch_deg: float
    timestamp: float

    def pack(self) -> bytes:
        """The message's bytes."""
        mask = sum(1 << i for i, key in enumerate(KEYS) if key in self.keys)
        return _CONTROL.pack(
            CONTROL_MAGIC, CONTROL_VERSION, mask, self.yaw_deg, self.pitch_deg, self.timestamp
        )


def unpack_control(message: bytes) -> BinaryControl:
    """Reads a binary control message; raises ValueError with a sentence that says what is wrong."""
    if len(message) != _CONTROL.size:
        raise ValueError(f"a binary message has {_CONTROL.size} bytes, got {len(message)}: see the protocol")
    magic, version, mask, yaw_deg, pitch_deg, timestamp = _CONTROL.unpack(message)
    if magic != CONTROL_MAGIC or version != CONTROL_VERSION:
        raise ValueError(
            f"not a control message of version {CONTROL_VERSION}: it begins with {message[:3]!r}"
        )
    if mask >> len(KEYS):
        raise ValueError(f"keys {mask:#x}: there are {len(KEYS)}, the highest bit is {1 << len(KEYS) - 1:#x}")
    if not (abs(yaw_deg) <= MAX_CAMERA_DEG and abs(pitch_deg) <= MAX_CAMERA_DEG and math.isfinite(timestamp)):
        raise ValueError(
            f"camera ({yaw_deg:g}, {pitch_deg:g}), timestamp {timestamp:g}: the camera turns by at most "
            f"{MAX_CAMERA_DEG:g} degrees a frame, and a timestamp is a finite number"
        )
    held = frozenset(key for i, key in enumerate(KEYS) if mask >> i & 1)
    return BinaryControl(keys=held, yaw_deg=yaw_deg, pitch_deg=pitch_deg, timestamp=timestamp)


def frame_sequence(message: bytes) -> int:
    """The sequence of a frame message, without reading the rest; raises ValueError if it is not one."""
    _check_beginning(message, MAGIC, VERSION, HEADER_BYTES)
    return _SEQUENCE.unpack_from(message)[0]

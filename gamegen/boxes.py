"""The boxes of fragmented MP4 (ISO/IEC 14496-12), as far as one track of H.264 needs them.

A file is an init segment (`ftyp`, `moov`), which says how pictures are coded, and fragments (`moof`, `mdat`) that hold
some. Time is counted in frames: the timescale is `FPS`, and a frame lasts 1.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from gamegen.controls import FPS

_TRACK = 1
_UNITY_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_SHOWN_TRACK = 3
"""Enabled, and part of what is shown."""
_KEY_FRAME, _OTHER_FRAME = 0x02000000, 0x01010000
"""A picture that needs no other; one that does and that nobody can begin with."""
_DEFAULT_BASE_IS_MOOF = 0x020000
_HAS_OFFSET_FIRST_FLAGS_AND_SIZES = 0x000205


def init_segment(width: int, height: int, decoder_configuration: bytes) -> bytes:
    """`ftyp` and `moov` of a track of H.264; the configuration is an `avcC` box's content."""
    brands = b"iso5" + struct.pack(">I", 512) + b"iso5iso6avc1mp41"
    # No time, duration or sample is known yet: fragments tell.
    header = struct.pack(">4I", 0, 0, FPS, 0)
    mvhd = _full_box(
        b"mvhd",
        0,
        0,
        header + struct.pack(">IH10x", 0x10000, 0x100) + _UNITY_MATRIX + struct.pack(">24xI", _TRACK + 1),
    )
    mvex = _box(b"mvex", _full_box(b"trex", 0, 0, struct.pack(">5I", _TRACK, 1, 1, 0, _OTHER_FRAME)))
    track = _box(b"trak", _track_header(width, height), _media(width, height, decoder_configuration))
    return _box(b"ftyp", brands) + _box(b"moov", mvhd, track, mvex)


def fragment(number: int, first_frame: int, samples: Sequence[bytes]) -> bytes:
    """`moof` and `mdat` of frames in the order in which they are shown, the first of which needs no other.

    `number` counts fragments from 1; the samples are H.264 with a length of four bytes before each unit.
    """
    sizes = struct.pack(f">{len(samples)}I", *map(len, samples))
    mfhd = _full_box(b"mfhd", 0, 0, struct.pack(">I", number))
    tfhd = _full_box(b"tfhd", 0, _DEFAULT_BASE_IS_MOOF, struct.pack(">I", _TRACK))
    tfdt = _full_box(b"tfdt", 1, 0, struct.pack(">Q", first_frame))

    def moof(offset: int) -> bytes:
        run = struct.pack(">IiI", len(samples), offset, _KEY_FRAME) + sizes
        trun = _full_box(b"trun", 0, _HAS_OFFSET_FIRST_FLAGS_AND_SIZES, run)
        return _box(b"moof", mfhd, _box(b"traf", tfhd, tfdt, trun))

    # Samples begin after this box and the next one's header.
    return moof(len(moof(0)) + 8) + _box(b"mdat", *samples)


def split_init(file: bytes) -> tuple[bytes, bytes]:
    """A file's init segment, and its fragments; raises ValueError if it does not begin with one."""
    at = 0
    for kind in (b"ftyp", b"moov"):
        if file[at + 4 : at + 8] != kind:
            raise ValueError(f"not fragmented MP4: at byte {at} there is no {kind.decode()} box")
        at += int.from_bytes(file[at : at + 4], "big")
    return file[:at], file[at:]


def _box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, parts)), kind) + b"".join(parts)


def _full_box(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)


def _track_header(width: int, height: int) -> bytes:
    times = struct.pack(">5I", 0, 0, _TRACK, 0, 0)
    size = struct.pack(">II", width << 16, height << 16)
    return _full_box(b"tkhd", 0, _SHOWN_TRACK, times, bytes(16), _UNITY_MATRIX, size)


def _media(width: int, height: int, decoder_configuration: bytes) -> bytes:
    undetermined_language = 0x55C4
    mdhd = _full_box(b"mdhd", 0, 0, struct.pack(">4IHH", 0, 0, FPS, 0, undetermined_language, 0))
    hdlr = _full_box(b"hdlr", 0, 0, struct.pack(">I4s12x", 0, b"vide"), b"frames\0")
    vmhd = _full_box(b"vmhd", 0, 1, bytes(8))
    here = _full_box(b"url ", 0, 1)
    dinf = _box(b"dinf", _full_box(b"dref", 0, 0, struct.pack(">I", 1), here))
    empty = [_full_box(kind, 0, 0, bytes(4)) for kind in (b"stts", b"stsc", b"stco")]
    no_sizes = _full_box(b"stsz", 0, 0, bytes(8))
    stsd = _full_box(b"stsd", 0, 0, struct.pack(">I", 1), _picture(width, height, decoder_configuration))
    minf = _box(b"minf", vmhd, dinf, _box(b"stbl", stsd, *empty, no_sizes))
    return _box(b"mdia", mdhd, hdlr, minf)


def _picture(width: int, height: int, decoder_configuration: bytes) -> bytes:
    resolution = struct.pack(">II", 72 << 16, 72 << 16)
    entry = struct.pack(">6xH16xHH", 1, width, height) + resolution + struct.pack(">4xH32xHh", 1, 24, -1)
    return _box(b"avc1", entry, _box(b"avcC", decoder_configuration))

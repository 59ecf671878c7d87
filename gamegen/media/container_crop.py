"""The part of a stored picture that MP4 and Matroska files name as the one to show, which PyAV does not tell.

MP4 has a box `clap` (ISO/IEC 14496-12, 12.1.4), Matroska the elements PixelCropTop and so on (RFC 9559, 5.1.4.1.28).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_MAX_INDEX_BYTES = 64 * 1024 * 1024
_MAX_ELEMENTS = 10_000
_SEGMENT, _TRACKS, _TRACK, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0xE0
_CLUSTER, _PIXEL_WIDTH, _PIXEL_HEIGHT = 0x1F43B675, 0xB0, 0xBA
_CROP_BOTTOM, _CROP_TOP, _CROP_LEFT, _CROP_RIGHT = 0x54AA, 0x54BB, 0x54CC, 0x54DD


class Crop(NamedTuple):
    """The part of a stored picture that is shown, in pixels."""

    width: int
    height: int
    left: int
    top: int


def read_crop(source: Path | str | bytes, video_track: int) -> Crop | None:
    """The part to show of the video track with this number among the file's video tracks, from 0.

    None where all of the picture is shown, and for other files than MP4 and Matroska.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        is_matroska = file.read(4) == b"\x1aE\xdf\xa3"
        try:
            crops = _matroska_crops(file) if is_matroska else _mp4_crops(file)
            return crops[video_track] if video_track < len(crops) else None
        # An index that cannot be followed to its end: FFmpeg has read it, so the picture is shown whole.
        except (struct.error, IndexError):
            return None


def _mp4_crops(file: BinaryIO) -> list[Crop | None]:
    index = _mp4_index(file)
    crops: list[Crop | None] = []
    for name, track in _boxes(index):
        media = dict(_boxes(dict(_boxes(track)).get(b"mdia", b""))) if name == b"trak" else {}
        if media.get(b"hdlr", b"")[8:12] == b"vide":
            tables = dict(_boxes(dict(_boxes(media.get(b"minf", b""))).get(b"stbl", b"")))
            crops.append(_clean_aperture(tables.get(b"stsd", b"")))
    return crops


def _mp4_index(file: BinaryIO) -> bytes:
    """The content of the box `moov`, empty if there is none."""
    place = file.seek(0)
    for _ in range(_MAX_ELEMENTS):
        file.seek(place)
        header = file.read(16)
        size, name = struct.unpack_from(">I4s", header)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", header, 8)
            head = 16
        if name == b"moov":
            file.seek(place + head)
            return file.read(min(size - head, _MAX_INDEX_BYTES))
        if size < head:
            break
        place += size
    return b""


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place + 8 <= len(content):
        size, name = struct.unpack_from(">I4s", content, place)
        if size < 8:
            return
        yield name, content[place + 8 : place + size]
        place += size


def _clean_aperture(descriptions: bytes) -> Crop | None:
    """The crop in the first sample description of the box `stsd`."""
    for _, entry in _boxes(descriptions[8:]):
        stored_width, stored_height = struct.unpack_from(">HH", entry, 24)
        clap = dict(_boxes(entry[78:])).get(b"clap")
        if clap is None:
            return None
        width_n, width_d, height_n, height_d, right_n, right_d, down_n, down_d = struct.unpack(
            ">8i", clap[:32]
        )
        if min(width_d, height_d, right_d, down_d) <= 0:
            return None
        width, height = width_n / width_d, height_n / height_d
        left = (stored_width - width) / 2 + right_n / right_d
        top = (stored_height - height) / 2 + down_n / down_d
        return _within(
            Crop(round(width), round(height), round(left), round(top)), stored_width, stored_height
        )
    return None


def _matroska_crops(file: BinaryIO) -> list[Crop | None]:
    crops = []
    for name, content in _elements(_matroska_tracks(file)):
        video = dict(_elements(content)).get(_VIDEO) if name == _TRACK else None
        if video is not None:
            facts = {key: int.from_bytes(value, "big") for key, value in _elements(video)}
            width, height = facts.get(_PIXEL_WIDTH, 0), facts.get(_PIXEL_HEIGHT, 0)
            left, top = facts.get(_CROP_LEFT, 0), facts.get(_CROP_TOP, 0)
            shown_width = width - left - facts.get(_CROP_RIGHT, 0)
            shown_height = height - top - facts.get(_CROP_BOTTOM, 0)
            crops.append(_within(Crop(shown_width, shown_height, left, top), width, height))
    return crops


def _matroska_tracks(file: BinaryIO) -> bytes:
    """The content of the element Tracks, which comes before the pictures; empty if there is none."""
    place = file.seek(0)
    for _ in range(_MAX_ELEMENTS):
        file.seek(place)
        name, size, head = _element_head(file.read(12))
        if name == _TRACKS:
            file.seek(place + head)
            return file.read(min(size, _MAX_INDEX_BYTES))
        if name == _CLUSTER:
            break
        place += head if name == _SEGMENT else head + size
    return b""


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place < len(content):
        name, size, head = _element_head(content[place : place + 12])
        yield name, content[place + head : place + head + size]
        place += head + size


def _element_head(data: bytes) -> tuple[int, int, int]:
    """Id, size and length of the head of an EBML element: the first bits tell how many bytes a number has."""
    id_bytes = 9 - data[0].bit_length()
    size_bytes = 9 - data[id_bytes].bit_length()
    size = int.from_bytes(data[id_bytes : id_bytes + size_bytes], "big") & ((1 << 7 * size_bytes) - 1)
    return int.from_bytes(data[:id_bytes], "big"), size, id_bytes + size_bytes


def _within(crop: Crop, width: int, height: int) -> Crop | None:
    """The crop; None for one of the whole picture, or of what is not in it."""
    is_inside = crop.left >= 0 and crop.top >= 0
    is_inside = is_inside and crop.left + crop.width <= width and crop.top + crop.height <= height
    is_part = crop.width > 0 and crop.height > 0 and (crop.width, crop.height) != (width, height)
    return crop if is_inside and is_part else None

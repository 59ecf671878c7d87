"""Metadata of video tracks in MP4 and Matroska files that PyAV does not expose: cropping, and kinds that are refused.

MP4 has boxes in its sample descriptions (ISO/IEC 14496-12: `clap` names the part, `encv` an encrypted track, `sv3d` a
projection, `dvcC` and its like Dolby Vision), Matroska has elements (RFC 9559: PixelCropTop and so on, Projection,
StereoMode, ContentEncryption, and BlockAdditionMapping for Dolby Vision).
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
_STEREO_MODE, _PROJECTION, _PROJECTION_TYPE = 0x53B8, 0x7670, 0x7671
_ENCODINGS, _ENCODING, _ENCRYPTION = 0x6D80, 0x6240, 0x5035
_ADDITION, _ADDITION_DATA = 0x41E4, 0x41ED
_ADDITION_TYPE = 0x41E7
_DOLBY_VISION = (b"dvcC", b"dvvC", b"dvwC")
ENCRYPTED = "the video is encrypted: send one without copy protection"
PROJECTED = "the video is spherical (360 or 180 degrees): export a flat view of it"
STEREOSCOPIC = "the video has two pictures in one, one for each eye: export one of them"
ONLY_DOLBY_VISION = "the video has colours that only Dolby Vision shows: export it as HDR10, HLG or SDR"


class Crop(NamedTuple):
    """The part of a stored picture that is shown, in pixels."""

    width: int
    height: int
    left: int
    top: int


class TrackFacts(NamedTuple):
    """The part of a track's pictures that is shown, None for all; and why they cannot be shown, None if they can."""

    crop: Crop | None = None
    hindrance: str | None = None


def read_track(source: Path | str | bytes, video_track: int) -> TrackFacts:
    """Metadata of one of the file's video tracks, counted from 0; the default for other files than MP4 and Matroska."""
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        is_matroska = file.read(4) == b"\x1aE\xdf\xa3"
        try:
            tracks = _matroska_tracks(file) if is_matroska else _mp4_tracks(file)
            return tracks[video_track] if video_track < len(tracks) else TrackFacts()
        # An index that cannot be followed to its end: FFmpeg has read it, so the picture is shown whole.
        except (struct.error, IndexError):
            return TrackFacts()


def _mp4_tracks(file: BinaryIO) -> list[TrackFacts]:
    index = _mp4_index(file)
    tracks: list[TrackFacts] = []
    for name, track in _boxes(index):
        media = dict(_boxes(dict(_boxes(track)).get(b"mdia", b""))) if name == b"trak" else {}
        if media.get(b"hdlr", b"")[8:12] == b"vide":
            tables = dict(_boxes(dict(_boxes(media.get(b"minf", b""))).get(b"stbl", b"")))
            tracks.append(_described(tables.get(b"stsd", b"")))
    return tracks


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


def _described(descriptions: bytes) -> TrackFacts:
    """Metadata in the box `stsd`; it has several descriptions where a clear beginning precedes encrypted samples."""
    entries = list(_boxes(descriptions[8:]))
    if any(name == b"encv" for name, _ in entries):
        return TrackFacts(hindrance=ENCRYPTED)
    for _, entry in entries:
        boxes = dict(_boxes(entry[78:]))
        projection = dict(_boxes(dict(_boxes(boxes.get(b"sv3d", b""))).get(b"proj", b"")))
        # FFmpeg tells the other projections of this box.
        if b"mshp" in projection:
            return TrackFacts(hindrance=PROJECTED)
        if any(_is_dolby_vision_alone(boxes[name]) for name in _DOLBY_VISION if name in boxes):
            return TrackFacts(hindrance=ONLY_DOLBY_VISION)
        return TrackFacts(_clean_aperture(entry, boxes.get(b"clap")))
    return TrackFacts()


def _clean_aperture(entry: bytes, clap: bytes | None) -> Crop | None:
    if clap is None:
        return None
    stored_width, stored_height = struct.unpack_from(">HH", entry, 24)
    width_n, width_d, height_n, height_d, right_n, right_d, down_n, down_d = struct.unpack(">8i", clap[:32])
    if min(width_d, height_d, right_d, down_d) <= 0:
        return None
    width, height = width_n / width_d, height_n / height_d
    left = (stored_width - width) / 2 + right_n / right_d
    top = (stored_height - height) / 2 + down_n / down_d
    return _within(Crop(round(width), round(height), round(left), round(top)), stored_width, stored_height)


def _is_dolby_vision_alone(configuration: bytes) -> bool:
    """True for a base layer that is compatible with no other kind of colours, such as that of profile 5."""
    return configuration[4] >> 4 == 0


def _matroska_tracks(file: BinaryIO) -> list[TrackFacts]:
    tracks = []
    for name, content in _elements(_matroska_index(file)):
        video = dict(_elements(content)).get(_VIDEO) if name == _TRACK else None
        if video is not None:
            hindrance = _matroska_hindrance(content, dict(_elements(video)))
            tracks.append(TrackFacts(_pixel_crop(video), hindrance))
    return tracks


def _matroska_hindrance(track: bytes, video: dict[int, bytes]) -> str | None:
    projection = dict(_elements(video.get(_PROJECTION, b"")))
    if any(projection.get(_PROJECTION_TYPE, b"")):
        return PROJECTED
    if any(video.get(_STEREO_MODE, b"")):
        return STEREOSCOPIC
    for name, content in _elements(track):
        parts = list(_elements(content)) if name in (_ENCODINGS, _ADDITION) else []
        if any(part == _ENCODING and _ENCRYPTION in dict(_elements(inner)) for part, inner in parts):
            return ENCRYPTED
        facts = dict(parts)
        if facts.get(_ADDITION_TYPE) in _DOLBY_VISION and _is_dolby_vision_alone(
            facts.get(_ADDITION_DATA, b"")
        ):
            return ONLY_DOLBY_VISION
    return None


def _pixel_crop(video: bytes) -> Crop | None:
    facts = {key: int.from_bytes(value, "big") for key, value in _elements(video)}
    width, height = facts.get(_PIXEL_WIDTH, 0), facts.get(_PIXEL_HEIGHT, 0)
    left, top = facts.get(_CROP_LEFT, 0), facts.get(_CROP_TOP, 0)
    shown_width = width - left - facts.get(_CROP_RIGHT, 0)
    shown_height = height - top - facts.get(_CROP_BOTTOM, 0)
    return _within(Crop(shown_width, shown_height, left, top), width, height)


def _matroska_index(file: BinaryIO) -> bytes:
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

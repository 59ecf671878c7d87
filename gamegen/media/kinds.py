"""What a file is, told by how it begins: its name, and the type that a client declares, often say something else."""

from __future__ import annotations

from pathlib import Path

HEAD_BYTES = 16
"""Bytes from a file's beginning that tell its kind."""
_STILL_BRANDS = {b"avif": "an AVIF picture"} | dict.fromkeys((b"heic", b"heix", b"mif1"), "a HEIC picture")
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
"""Boxes that MP4 and QuickTime files begin with."""
_OTHERS = (
    (b"GIF8", "a GIF file"),
    (b"BM", "a BMP file"),
    (b"II*\0", "a TIFF file"),
    (b"MM\0*", "a TIFF file"),
    (b"%PDF", "a PDF file"),
    (b"<svg", "an SVG file"),
    (b"\0\5\x16\7", "an attribute file of macOS"),
)


def is_image(data: bytes) -> bool:
    """True for data that begins as a PNG, JPEG or WebP file does."""
    return data.startswith((b"\x89PNG", b"\xff\xd8\xff")) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def is_video(data: bytes) -> bool:
    """True for data that begins as an MP4, QuickTime, Matroska or WebM file does."""
    is_mp4 = data[4:8] in _MP4_BOXES and data[8:12] not in _STILL_BRANDS
    return is_mp4 or data.startswith(b"\x1aE\xdf\xa3")


def is_video_file(path: Path) -> bool:
    """`is_video` of a file; False for one that cannot be opened."""
    try:
        with path.open("rb") as file:
            return is_video(file.read(HEAD_BYTES))
    except OSError:
        return False


def other_kind(data: bytes) -> str | None:
    """The name of a kind of file that is read neither as an image nor as a video; None if it is not known."""
    if data[4:8] == b"ftyp" and data[8:12] in _STILL_BRANDS:
        return _STILL_BRANDS[data[8:12]]
    if not data:
        return "empty"
    return next((name for start, name in _OTHERS if data.startswith(start)), None)

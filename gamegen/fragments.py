"""Chunks as H.264 in fragmented MP4: far fewer bytes than JPEG files, since frames of a chunk are much alike.

A chunk is coded by itself, one picture that needs no other and three that follow from it, by an encoder that has coded
nothing before: its bytes are a function of its pixels, any process can code the next one, and any may be left out.
"""

from __future__ import annotations

from fractions import Fraction

import av
import cv2
import numpy as np
from av.codec.context import Flags

from gamegen.boxes import fragment, init_segment
from gamegen.controls import FPS, FRAMES_PER_CHUNK
from gamegen.video import check_pixels

CODEC = "avc1.64001f"
"""As browsers are asked for it: High profile, and level 3.1 for any size, up to 1280x720 at 24 frames a second."""
CRF = 22
"""Quality by x264's scale: more is smaller and coarser."""
_FULL_RANGE = "yuvj420p"
_OPTIONS = {
    "preset": "veryfast",
    "tune": "zerolatency",
    "level": "31",
    # A first picture far better than the three after it would make the quality pulse six times a second. Colours are
    # those of a JPEG file, samples have their length before them as MP4 wants it.
    "x264-params": "annexb=0:ipratio=1.1:colormatrix=smpte170m:colorprim=bt709:transfer=iec61966-2-1:chromaloc=1",
}
_LENGTH_BYTES = 4
_NOTES = 6
"""The type of a unit that decoders leave aside: what made the stream, 600 bytes of it."""


def encode_chunk(frames: np.ndarray, sequence: int, crf: int = CRF) -> bytes:
    """Frames `uint8 (T, H, W, 3)`, the first of them frame `sequence`, as an MP4 file: init segment and one fragment.

    The init segment is the same for all chunks of a size. Raises ValueError for another dtype or shape, no frames, or
    an odd width or height.
    """
    check_pixels(frames)
    height, width = frames.shape[1:3]
    if width % 2 or height % 2:
        raise ValueError(f"cannot write {width}x{height} as H.264: use an even width and height")
    encoder = _encoder(width, height, crf)
    samples = []
    for index, planes in enumerate(_planes(frames)):
        picture = av.VideoFrame.from_ndarray(planes, format=_FULL_RANGE)
        picture.pts = index
        samples += [_without_notes(bytes(packet)) for packet in encoder.encode(picture)]
    assert len(samples) == len(frames), "without B frames and lookahead each picture is coded at once"
    init = init_segment(width, height, bytes(encoder.extradata or b""))
    return init + fragment(sequence // FRAMES_PER_CHUNK + 1, sequence, samples)


def _encoder(width: int, height: int, crf: int) -> av.VideoCodecContext:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, _FULL_RANGE
    encoder.time_base, encoder.framerate = Fraction(1, FPS), Fraction(FPS)
    encoder.thread_count = 1
    encoder.options = {**_OPTIONS, "crf": str(crf)}
    encoder.flags |= Flags.global_header
    encoder.open()
    return encoder


def _planes(frames: np.ndarray) -> np.ndarray:
    """Luma and halved chroma of `uint8 (T, H, W, 3)` frames, as JPEG has them: uint8 `(T, 3 H / 2, W)`."""
    num_frames, height, width = frames.shape[:3]
    # One picture above the other: heights are even, so that no pixel of one gets into another.
    colours = cv2.cvtColor(frames.reshape(-1, width, 3), cv2.COLOR_RGB2YCrCb)
    half = width // 2, num_frames * height // 2
    cr, cb = (cv2.resize(colours[..., i], half, interpolation=cv2.INTER_AREA) for i in (1, 2))
    parts = [plane.reshape(num_frames, -1) for plane in (colours[..., 0], cb, cr)]
    return np.concatenate(parts, 1).reshape(num_frames, 3 * height // 2, width)


def _without_notes(sample: bytes) -> bytes:
    kept, at = [], 0
    while at < len(sample):
        end = at + _LENGTH_BYTES + int.from_bytes(sample[at : at + _LENGTH_BYTES], "big")
        if sample[at + _LENGTH_BYTES] & 31 != _NOTES:
            kept.append(sample[at:end])
        at = end
    return b"".join(kept)

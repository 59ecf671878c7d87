"""Chunks as H.264 in fragmented MP4 (ISO/IEC 14496-12): far fewer bytes than JPEG files.

A chunk is coded by itself, one picture that needs no other and three that follow from it, by an encoder that has coded
nothing before: its bytes are a function of its pixels, any process can code the next one, and any may be left out.

A file is an init segment (`ftyp`, `moov`), which says how pictures are coded, and fragments (`moof`, `mdat`) that hold
some. Time is counted in frames: the timescale is `FPS`, and a frame lasts 1.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction

import av
import cv2
import numpy as np
from av.codec.context import Flags

from gamegen.constants import FPS, FRAMES_PER_CHUNK
from gamegen.media.frames import check_pixels
from gamegen.media.size import check_even

CODEC = "avc1.64001f"
"""The codec's name in browsers: High profile, and level 3.1 for any size, up to 1280x720 at 24 frames a second."""
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
_SEI = 6
"""The type of units with supplemental information (SEI), which decoders leave aside: 600 bytes on the encoder."""
_TRACK = 1
_UNITY_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_SHOWN_TRACK = 3
"""Flags of a track that is enabled and part of the presentation."""
_KEY_FRAME, _OTHER_FRAME = 0x02000000, 0x01010000
"""Flags of a sync sample; of one that depends on others and that no decoder can start with."""
_DEFAULT_BASE_IS_MOOF = 0x020000
_HAS_OFFSET_FIRST_FLAGS_AND_SIZES = 0x000205


def encode_chunk(frames: np.ndarray, sequence: int, crf: int = CRF) -> bytes:
    """Encodes frames `uint8 (T, H, W, 3)`, from frame `sequence` on, as an MP4 file: init segment and one fragment.

    The init segment is the same for all chunks of a size. Raises ValueError for another dtype or shape, no frames, or
    an odd width or height.
    """
    check_pixels(frames)
    height, width = frames.shape[1:3]
    check_even(width, height)
    encoder = _encoder(width, height, crf)
    samples = []
    for index, planes in enumerate(_planes(frames)):
        picture = av.VideoFrame.from_ndarray(planes, format=_FULL_RANGE)
        picture.pts = index
        samples += [_without_sei(bytes(packet)) for packet in encoder.encode(picture)]
    assert len(samples) == len(frames), "without B frames and lookahead each picture is coded at once"
    init = init_segment(width, height, bytes(encoder.extradata or b""))
    return init + fragment(sequence // FRAMES_PER_CHUNK + 1, sequence, samples)


def init_segment(width: int, height: int, decoder_configuration: bytes) -> bytes:
    """`ftyp` and `moov` of a track of H.264; the configuration is an `avcC` box's content."""
    brands = b"iso5" + struct.pack(">I", 512) + b"iso5iso6avc1mp41"
    # Times, durations and samples are in the fragments.
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
    """Splits a file into init segment and fragments; raises ValueError if it does not begin with an init segment."""
    at = 0
    for kind in (b"ftyp", b"moov"):
        if file[at + 4 : at + 8] != kind:
            raise ValueError(f"not fragmented MP4: at byte {at} there is no {kind.decode()} box")
        at += int.from_bytes(file[at : at + 4], "big")
    return file[:at], file[at:]


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


def _without_sei(sample: bytes) -> bytes:
    """A sample's units but those of type SEI."""
    kept, at = [], 0
    while at < len(sample):
        end = at + _LENGTH_BYTES + int.from_bytes(sample[at : at + _LENGTH_BYTES], "big")
        if sample[at + _LENGTH_BYTES] & 31 != _SEI:
            kept.append(sample[at:end])
        at = end
    return b"".join(kept)


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

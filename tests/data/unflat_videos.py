"""Videos that show more than one flat picture in usual colours, and some that only look like it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.data.media_files import (
    DESCRIPTION,
    NUM_FRAMES,
    Sample,
    box,
    scene,
    two_tracks,
    video,
    with_boxes,
)


def videos_of_several_pictures() -> Iterator[Sample]:
    """Videos that are no flat picture of one eye in colours that can be shown, and some that only look like it."""
    frames, all_of_it = scene(), tuple(range(NUM_FRAMES))
    plain = video(frames, options={"bf": "0"})
    hevc = video(frames, "libx265", "mp4", "yuv420p10le")

    def projected(*mapping: bytes) -> bytes:
        head = box(b"svhd", bytes(4), b"camera\0"), box(b"proj", box(b"prhd", bytes(16)), *mapping)
        return with_boxes(plain, box(b"sv3d", *head))

    sphere = "is spherical"
    yield Sample("equirectangular", "video", projected(box(b"equi", bytes(20))), refused=sphere)
    yield Sample("cube", "video", projected(box(b"cbmp", bytes(12))), refused=sphere)
    yield Sample("mesh", "video", projected(box(b"mshp", bytes(40))), refused=sphere)
    # As cameras and editors wrote before that box: XML, in a box that is known by its number.
    words = b"".join(
        b"<GSpherical:%b>%b</GSpherical:%b>" % (name, value, name)
        for name, value in (
            (b"Spherical", b"true"),
            (b"Stitched", b"true"),
            (b"StitchingSoftware", b"camera"),
            (b"ProjectionType", b"equirectangular"),
        )
    )
    known = box(b"uuid", bytes.fromhex("ffcc8263f8554a938814587a02521fdd"), words)
    described = with_boxes(plain, known, (b"moov", b"trak"), b"mdia")
    yield Sample("equirectangular-xml", "video", described, refused=sphere)
    eyes = "one for each eye"
    for mode, name in ((1, "top-bottom"), (2, "left-right")):
        stereo = with_boxes(plain, box(b"st3d", bytes(4), bytes([mode])))
        yield Sample(name, "video", stereo, refused=eyes)
    yield Sample("one-eye", "video", with_boxes(plain, box(b"st3d", bytes(4), bytes([0]))), frames=all_of_it)
    packed = video(frames, options={"x264-params": "frame-packing=3"})
    yield Sample("left-right-in-stream", "video", packed, refused=eyes)
    for mode in ("left_right", "anaglyph_cyan_red"):
        stereo = video(frames, container="matroska", setup=lambda s, m=mode: s.metadata.update(stereo_mode=m))
        yield Sample(f"{mode}-matroska", "video", stereo, refused=eyes)
    for profile, compatible_with in ((5, 0), (8, 1)):
        record = (
            bytes([1, 0]) + struct.pack(">HB", profile << 9 | 6 << 3 | 5, compatible_with << 4) + bytes(19)
        )
        vision = with_boxes(hevc, box(b"dvcC", record), (*DESCRIPTION, b"hev1"), b"hvcC")
        says = "" if compatible_with else "only Dolby Vision"
        name = f"dolby-vision-{profile}"
        yield Sample(name, "video", vision, frames=() if says else all_of_it, refused=says)
    secret = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "1" * 32,
        "encryption_kid": "2" * 32,
    }
    yield Sample("encrypted", "video", video(frames, muxer=secret), refused="is encrypted")
    cover = two_tracks("mjpeg", is_cover=True)
    yield Sample("cover-picture-first", "video", cover, frames=all_of_it)
    angles = two_tracks("libx264", is_cover=False)
    yield Sample("second-track-is-the-one-to-show", "video", angles, frames=all_of_it)

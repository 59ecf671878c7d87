"""Odd media files, made on the fly: what phones, browsers, editors and file systems write, and what each shows.

    python -m tests.data.make_media FOLDER

writes them into a folder, to be tried by hand.
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageCms

from gamegen.constants import FPS
from tests.data.media_files import (
    HEIGHT,
    LUMA,
    NUM_FRAMES,
    WIDTH,
    Sample,
    Setup,
    colours,
    joined,
    picture,
    remuxed,
    saved,
    scene,
    veiled,
    video,
    with_clean_aperture,
    with_pixel_crop,
)
from tests.data.unflat_videos import videos_of_several_pictures


def sampled(times_s: Sequence[float], end_s: float) -> tuple[int, ...]:
    """The frames that are shown in the middle of each 24th of a second."""
    moments = times_s[0] + (np.arange(round((end_s - times_s[0]) * FPS)) + 0.5) / FPS
    return tuple((np.searchsorted(times_s, moments, "right") - 1).tolist())


def corpus() -> list[Sample]:
    """All samples."""
    return [
        *turned_videos(),
        *timed_videos(),
        *coloured_videos(),
        *videos_of_several_pictures(),
        *refused_videos(),
        *pictures(),
        *no_pictures(),
    ]


def turned_videos() -> Iterator[Sample]:
    """Videos that are shown in another shape than they are stored in."""
    frames, all_of_it = scene(), tuple(range(NUM_FRAMES))

    def stored(
        name: str, pixels: np.ndarray, setup: Setup, size: tuple[int, int] = (WIDTH, HEIGHT)
    ) -> Sample:
        return Sample(name, "video", video(np.ascontiguousarray(pixels), setup=setup), size, all_of_it)

    lying = (HEIGHT, WIDTH)
    for degrees in (90, 180, 270):
        # Turned back by np.rot90, clockwise, so that the matrix turns it upright.
        pixels = np.rot90(frames, -degrees // 90, (1, 2))
        yield stored(f"rotated-{degrees}", pixels, lambda s, d=degrees: s.set_display_rotation(d))
    yield stored("mirrored", frames[:, :, ::-1], lambda s: s.set_display_rotation(0, hflip=True))
    yield stored("upside-down", frames[:, ::-1], lambda s: s.set_display_rotation(0, vflip=True))
    transposed = (0, 1 << 16, 0, 1 << 16, 0, 0, 0, 0, 1 << 30)
    yield stored("transposed", frames.swapaxes(1, 2), lambda s: s.set_display_matrix(transposed))
    portrait = scene(width=HEIGHT, height=WIDTH)
    yield stored("portrait", np.rot90(portrait, -1, (1, 2)), lambda s: s.set_display_rotation(90), size=lying)

    def pixel_aspect(aspect: Fraction) -> Setup:
        return lambda stream: setattr(stream.codec_context, "sample_aspect_ratio", aspect)

    yield stored("wide-pixels", scene(width=32), pixel_aspect(Fraction(2)))
    yield stored("narrow-pixels", scene(width=96), pixel_aspect(Fraction(2, 3)))
    yield Sample(
        "odd-size", "video", video(scene(width=63, height=47), pixel_format="yuv444p"), (63, 47), all_of_it
    )
    yield Sample("not-of-macroblocks", "video", video(scene(width=66, height=50)), (66, 50), all_of_it)
    wide = np.zeros((NUM_FRAMES, HEIGHT, 96, 3), np.uint8)
    wide[:, :, 24:88] = frames
    cropped = with_clean_aperture(video(wide), WIDTH, HEIGHT, 8, 0)
    yield Sample("cropped", "video", cropped, (WIDTH, HEIGHT), all_of_it)
    yield Sample("cropped-matroska", "video", with_pixel_crop(wide), (WIDTH, HEIGHT), all_of_it)
    askew = video(frames, setup=lambda s: s.set_display_rotation(45))
    yield Sample("askew", "video", askew, refused="askew: export it upright")


def timed_videos() -> Iterator[Sample]:
    """Videos whose frames do not simply follow each other."""
    frames, all_of_it = scene(), tuple(range(NUM_FRAMES))
    gops = {"g": "4", "bf": "2", "sc_threshold": "0"}
    h264 = video(frames, options=gops)
    open_gop = "log-level=none:pools=1:open-gop=1:keyint=4:min-keyint=4:bframes=2:scenecut=0:b-adapt=0"
    hevc = video(frames, "libx265", options={"x265-params": open_gop, "preset": "medium"})
    yield Sample("trimmed-h264", "video", remuxed(h264, "mp4", 0, 2), frames=tuple(range(2, NUM_FRAMES)))
    yield Sample(
        "trimmed-h264-later", "video", remuxed(h264, "mov", 4, 6), frames=tuple(range(6, NUM_FRAMES))
    )
    yield Sample("trimmed-hevc", "video", remuxed(hevc, "mp4", 4, 6), frames=tuple(range(6, NUM_FRAMES)))
    yield Sample(
        "cut-at-open-gop", "video", remuxed(hevc, "matroska", 4, 4), frames=tuple(range(4, NUM_FRAMES))
    )
    yield Sample("starts-late", "video", remuxed(h264, "matroska", 0, -86400), frames=all_of_it)
    times_s = (0, 0.04, 0.125, 0.15, 0.16, 0.3, 0.34, 0.36, 0.37, 0.38, 0.5, 0.54)
    for container in ("mp4", "matroska"):
        varying = video(frames, container=container, times_s=times_s, options={"bf": "0"})
        yield Sample(f"variable-rate-{container}", "video", varying, frames=sampled(times_s, 0.54 + 1 / FPS))
    for fps in (12, 30, 60):
        many = scene(np.arange(24) // 2)
        shown = tuple(s // 2 for s in sampled(np.arange(24) / fps, 24 / fps))
        yield Sample(f"{fps}-a-second", "video", video(many, fps=fps), frames=shown)
    live = video(frames, "libvpx", "webm", muxer={"live": "1"}, options={"deadline": "realtime", "crf": "8"})
    yield Sample("live-webm", "video", live, frames=all_of_it, tolerance=24)
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    yield Sample("fragments", "video", video(frames, muxer=fragments), frames=all_of_it)
    for count in (1, 2):
        says = f"has {count} frames"
        yield Sample(
            f"{count}-frames",
            "video",
            video(scene(range(count))),
            frames=tuple(range(count)),
            refused_upload=says,
        )
    quick = scene(np.arange(1900) // 200)
    yield Sample(
        "1000-a-second",
        "video",
        video(quick, fps=1000, options={"preset": "ultrafast"}),
        frames=tuple(s // 200 for s in sampled(np.arange(1900) / 1000, 1.9)),
        refused_upload="over 1800 frames",
    )


def coloured_videos() -> Iterator[Sample]:
    """Videos of several codecs and colours."""
    frames, all_of_it = scene(), tuple(range(NUM_FRAMES))

    def of(name: str, *arguments: Any, pixels: np.ndarray = frames, **options: Any) -> Sample:
        facts = {
            key: options.pop(key)
            for key in ("is_grey", "is_bright", "tolerance", "refused_upload")
            if key in options
        }
        return Sample(name, "video", video(pixels, *arguments, **options), frames=all_of_it, **facts)

    for name, matrix, number in (("601", "ITU601", 5), ("709", "ITU709", 1)):
        for color_range, word in ((1, "MPEG"), (2, "JPEG")):
            how = {"dst_colorspace": matrix, "dst_color_range": word}
            yield of(f"bt{name}-{word.lower()}", setup=colours(number, color_range), convert=how)
    ten = {"dst_colorspace": 9, "dst_color_range": "MPEG"}
    yield of("10-bit", "libx265", "mp4", "yuv420p10le")
    yield of("bt2020-10-bit", "libx265", "mp4", "yuv420p10le", setup=colours(9, 1, 9, 14), convert=ten)
    yield of("444", pixel_format="yuv444p")
    yield of("rgb", "libx264rgb", "mp4", "rgb24")
    grey = np.repeat((frames @ LUMA).astype(np.uint8)[..., None], 3, -1)
    yield of("grey", pixel_format="gray", pixels=grey, is_grey=True, setup=colours(2, 2))
    yield of("vp8", "libvpx", "webm", options={"deadline": "realtime", "crf": "8"}, tolerance=24)
    yield of("vp9", "libvpx-vp9", "webm", tolerance=24)
    yield of(
        "vp8-alpha",
        "libvpx",
        "webm",
        "yuva420p",
        pixels=veiled(frames),
        options={"auto-alt-ref": "0", "crf": "8"},
        tolerance=24,
    )
    yield of("vp9-alpha", "libvpx-vp9", "webm", "yuva420p", pixels=veiled(frames), tolerance=24)
    yield of("mpeg4", "mpeg4", "mp4", options={"qmin": "1", "qmax": "2"})
    yield of("av1", "libsvtav1", "mp4", options={"preset": "12", "crf": "10"}, tolerance=24)
    yield of(
        "mjpeg-avi",
        "mjpeg",
        "avi",
        "yuvj420p",
        options={"qmin": "1", "qmax": "2"},
        refused_upload="send a complete",
    )
    yield of("prores", "prores_ks", "mov", "yuv422p10le", refused_upload="codec is prores")
    # Lower lines of one moment, upper lines of a later one: what is shown is the first, and no mean of both.
    woven = scene()
    woven[:, ::2] = scene(range(2, NUM_FRAMES + 2))[:, ::2]
    fields = {"flags": "+ildct+ilme", "x264-params": "bff=1"}
    yield of("interlaced", pixels=woven, options=fields)
    turned = np.ascontiguousarray(woven[:, :, ::-1])
    yield of("interlaced-mirrored", pixels=turned, options=fields, setup=_mirrored)
    for name, transfer in (("hlg", 18), ("pq", 16)):
        # Its grey tells light, not a number, and the brightest of it is white.
        bright = {"setup": colours(9, 1, 9, transfer), "convert": ten, "is_bright": True}
        yield of(name, "libx265", "mp4", "yuv420p10le", **bright)


def refused_videos() -> Iterator[Sample]:
    """Files that are called videos and are none that can be read."""
    whole = video(scene(), options={"bf": "0"})

    def refused(name: str, data: bytes, says: str) -> Sample:
        return Sample(name, "video", data, refused=says)

    audio = io.BytesIO()
    with av.open(audio, "w", format="mp4") as output:
        stream: Any = output.add_stream("aac", rate=16000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        output.mux(stream.encode(sound))
        output.mux(stream.encode(None))
    what = "send a complete MP4 or WebM"
    yield refused("audio-only", audio.getvalue(), f"no supported video: {what}")
    yield refused("truncated", whole[: len(whole) // 2], what)
    fragments = video(scene(), muxer={"movflags": "frag_keyframe+empty_moov"}, options={"bf": "0", "g": "4"})
    yield refused("truncated-end", whole[:-300], what)
    yield refused("truncated-fragments", fragments[: int(len(fragments) * 0.6)], what)
    webm = video(scene(), "libvpx-vp9", "webm")
    yield refused("truncated-webm", webm[: len(webm) * 2 // 3], what)
    yield refused("empty", b"", "is empty")
    yield refused("text", b"a walk in the forest\n" * 20, what)
    yield refused("playlist", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", what)
    yield refused("macos-attributes", b"\0\5\x16\7\0\2\0\0Mac OS X        ", "attribute file of macOS")
    yield refused("picture-as-video", picture(), "picture")
    yield refused("gif-as-video", saved(Image.new("RGB", (64, 48)), "GIF"), f"GIF file: {what}")
    yield refused("tall-pixels", video(scene(width=32), setup=_absurd_aspect), "aspect ratio")
    two_shapes = video(scene(range(8))), video(scene(range(8), width=48, height=64))
    yield refused("two-shapes", joined(*two_shapes), "changes from 64x48 to 48x64")


def _mirrored(stream: Any) -> None:
    stream.set_display_rotation(0, hflip=True)


def _absurd_aspect(stream: Any) -> None:
    stream.codec_context.sample_aspect_ratio = Fraction(20)


def pictures() -> Iterator[Sample]:
    """Pictures, and how they are to be shown."""
    upright = Image.fromarray(scene([0])[0])
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x112] = orientation
        stored = upright.transpose(back[orientation]) if orientation in back else upright
        for format in ("JPEG",) if orientation != 6 else ("JPEG", "PNG", "WEBP"):
            yield Sample(f"exif-{orientation}-{format.lower()}", "image", saved(stored, format, exif=exif))
    yield Sample("png", "image", picture())
    yield Sample("progressive-jpeg", "image", picture("JPEG", progressive=True))
    yield Sample("webp", "image", picture("WEBP", lossless=True))
    yield Sample("cmyk-jpeg", "image", picture("JPEG", "CMYK"), tolerance=24)
    yield Sample("palette-png", "image", saved(upright.quantize(16), "PNG"))
    grey = upright.convert("L")
    yield Sample("grey-jpeg", "image", saved(grey, "JPEG"), is_grey=True)
    sixteen = np.asarray(grey).astype(np.uint16) * 257
    yield Sample("16-bit-png", "image", saved(Image.fromarray(sixteen), "PNG"), is_grey=True)
    yield Sample("alpha-png", "image", picture(mode="RGBA", pixels=veiled(scene([0]))[0]))
    yield Sample("alpha-webp", "image", picture("WEBP", mode="RGBA", pixels=veiled(scene([0]))[0]))
    # Of a profile that swaps nothing but is not called sRGB the colours stay what they are.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace(b"sRGB", b"mine")
    yield Sample("colour-profile", "image", picture("JPEG", icc_profile=profile))
    yield Sample("damaged-profile", "image", picture("JPEG", icc_profile=b"no profile"))
    both = [Image.fromarray(scene([3])[0])]
    yield Sample("two-pictures-jpeg", "image", saved(upright, "MPO", save_all=True, append_images=both))
    yield Sample("odd-size-png", "image", picture(pixels=scene([0], 63, 47)[0]), size=(63, 47))


def no_pictures() -> Iterator[Sample]:
    """Files that are called pictures and are none that can be read."""
    what = "send a complete PNG, JPEG or WebP"
    moving = [Image.fromarray(frame) for frame in scene([3, 6, 9])]

    def refused(name: str, data: bytes, says: str = what) -> Sample:
        return Sample(name, "image", data, refused=says)

    for format in ("GIF", "TIFF", "BMP", "AVIF"):
        yield refused(f"{format.lower()}-picture", picture(format), f"is an? {format} (file|picture): {what}")
    for format in ("GIF", "WEBP", "PNG"):
        says = "GIF file" if format == "GIF" else "the image moves"
        yield refused(
            f"moving-{format.lower()}",
            saved(moving[0], format, save_all=True, append_images=moving[1:]),
            says,
        )
    yield refused("heic-picture", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400), "HEIC picture")
    yield refused("empty-picture", b"", "is empty")
    yield refused("text-as-picture", b"a walk in the forest\n" * 20)
    yield refused("truncated-jpeg", picture("JPEG")[:-400])
    yield refused("truncated-png", picture()[:-60])
    bomb = bytearray(picture())
    struct.pack_into(">II", bomb, 16, 60000, 60000)
    struct.pack_into(">I", bomb, 29, zlib.crc32(bomb[12:29]))
    yield refused("bomb-png", bytes(bomb), "at most .* pixels|more than .* pixels")
    strip = np.zeros((2, 4000, 3), np.uint8)
    yield refused("strip-png", picture(pixels=strip), "is a strip")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for sample in corpus():
        (folder / sample.name).write_bytes(sample.data)

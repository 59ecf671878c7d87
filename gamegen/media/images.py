"""JPEG encoding of frames, and the one reader of PNG, JPEG and WebP files, within limits."""

from __future__ import annotations

import functools
import io
import warnings

import numpy as np
import simplejpeg
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from gamegen.media.frames import check_pixels
from gamegen.media.kinds import is_image, is_video, other_kind

JPEG_QUALITY = 85
MAX_IMAGE_BYTES = 8 * 1024 * 1024
MAX_IMAGE_PIXELS = 4096 * 4096
_WHAT_TO_SEND = "send a complete PNG, JPEG or WebP file"


def encode_jpegs(frames: np.ndarray, quality: int = JPEG_QUALITY) -> list[bytes]:
    """Encodes each frame of `uint8 (T, H, W, 3)` as a JPEG file; raises ValueError for another dtype or shape."""
    check_pixels(frames)
    return [
        simplejpeg.encode_jpeg(np.ascontiguousarray(f), quality=quality, colorsubsampling="420")
        for f in frames
    ]


def decode_image(
    data: bytes, max_bytes: int = MAX_IMAGE_BYTES, max_pixels: int = MAX_IMAGE_PIXELS
) -> np.ndarray:
    """Pixels of a PNG, JPEG or WebP file as it is to be shown, `uint8 (H, W, 3)`.

    It is turned upright as its EXIF data say, its colours are converted to sRGB, and transparency is drawn over black.
    The size is read from the header and checked before any pixel is decoded. Raises ValueError with what to do for a
    file that is too large, has too many pixels, moves, or is not a readable image.
    """
    if len(data) > max_bytes:
        raise ValueError(f"the image has {len(data)} bytes, at most {max_bytes} are read: send a smaller one")
    if not is_image(data) and (kind := "a video" if is_video(data) else other_kind(data)):
        raise ValueError(f"the image is {kind}: {_WHAT_TO_SEND}")
    try:
        # Of what is odd in a stranger's file the log need not tell.
        with warnings.catch_warnings(action="ignore"):
            return _decoded(data, max_pixels)
    except Image.DecompressionBombError as error:
        raise ValueError(f"the image has more than {max_pixels} pixels: scale it down") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"the image cannot be read: {_WHAT_TO_SEND}") from error


def _decoded(data: bytes, max_pixels: int) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ValueError(
                f"the image is {width}x{height}, at most {max_pixels} pixels are read: scale it down"
            )
        # A JPEG with several pictures has a first one to be shown, and others that belong to it.
        if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
            raise ValueError(f"the image moves: {_WHAT_TO_SEND}, or a video")
        image.load()
        rgba = _in_srgb(_in_8_bits(ImageOps.exif_transpose(image))).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.array(flat.convert("RGB"))


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Of 16 bits of grey the upper 8, where Pillow would clip; other images have 8 already."""
    if not image.mode.startswith("I"):
        return image
    grey = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    grey.info = {name: value for name, value in image.info.items() if name == "icc_profile"}
    return grey


def _in_srgb(image: Image.Image) -> Image.Image:
    """The image in the colours of screens; unchanged without a colour profile, or with one that cannot be read."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    has_transparency = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    if image.mode not in ("RGB", "RGBA", "L", "CMYK"):
        image = image.convert("RGBA" if has_transparency else "RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, source, _srgb(), outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))

"""JPEG encoding of frames, and reading of PNG, JPEG and WebP files within limits."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from gamegen.media.frames import check_pixels

JPEG_QUALITY = 85
MAX_IMAGE_BYTES = 8 * 1024 * 1024
MAX_IMAGE_PIXELS = 4096 * 4096


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
    """Pixels of a PNG, JPEG or WebP file, `uint8 (H, W, 3)`; transparency is drawn over black.

    The size is read from the header and checked before any pixel is decoded. Raises ValueError with what to
    do for a file that is too large, has too many pixels or is not a readable image.
    """
    if len(data) > max_bytes:
        raise ValueError(f"the image has {len(data)} bytes, at most {max_bytes} are read: send a smaller one")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ValueError(
                    f"the image is {width}x{height}, at most {max_pixels} pixels are read: scale it down"
                )
            rgba = image.convert("RGBA")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ValueError("the image cannot be read: send a complete PNG, JPEG or WebP file") from error
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.array(flat.convert("RGB"))

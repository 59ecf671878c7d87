"""JPEG writing and image reading: round trips and limits."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg

from gamegen.media.images import decode_image, encode_jpegs
from tests.picture_samples import moving_square, png


def test_jpegs_show_their_frames():
    clip = moving_square(4)
    jpegs = encode_jpegs(clip)
    assert len(jpegs) == 4
    assert np.abs(simplejpeg.decode_jpeg(jpegs[2]).astype(int) - clip[2]).mean() < 6


def test_image_is_read_and_bad_ones_are_refused():
    assert decode_image(png(20, 10)).shape == (10, 20, 3)
    with pytest.raises(ValueError, match="PNG, JPEG or WebP"):
        decode_image(b"\x89PNG but not really")
    with pytest.raises(ValueError, match="PNG, JPEG or WebP"):
        decode_image(png(64, 64)[:60])
    with pytest.raises(ValueError, match="scale it down"):
        decode_image(png(300, 300), max_pixels=100 * 100)
    with pytest.raises(ValueError, match="send a smaller one"):
        decode_image(png(20, 10), max_bytes=10)

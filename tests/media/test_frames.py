"""Scaling and cropping of frames."""

from __future__ import annotations

import numpy as np
import pytest

from gamegen.media.frames import resize_to
from tests.picture_samples import moving_square


@pytest.mark.parametrize("size", [(32, 32), (128, 48), (64, 48)])
def test_resize_crops_the_centre(size):
    resized = resize_to(moving_square(), size)
    assert resized.shape == (8, size[1], size[0], 3)
    assert resized.dtype == np.uint8

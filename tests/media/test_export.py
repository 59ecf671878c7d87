"""Exported videos and contact sheets."""

from __future__ import annotations

import pytest

from gamegen.media.export import write_by_suffix
from gamegen.media.images import decode_image
from tests.picture_samples import moving_square


def test_contact_sheet_shows_the_first_frame_and_the_last(tmp_path):
    clip = moving_square()
    write_by_suffix(tmp_path / "sheet.png", clip)
    sheet = decode_image((tmp_path / "sheet.png").read_bytes())
    height, width = clip.shape[1:3]
    assert sheet.shape == (2 * height, 4 * width, 3)
    assert (sheet[:height, :width] == clip[0]).all() and (sheet[height:, 3 * width :] == clip[-1]).all()
    with pytest.raises(ValueError, match=r"\.mp4 for a video"):
        write_by_suffix(tmp_path / "clip.gif", clip)

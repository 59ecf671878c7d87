"""Distillation: levels that grow in number, students that land where the teacher leads."""

import pytest

from gamegen.training.config import TurboConfig
from gamegen.turbo.distillation import num_levels


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (TurboConfig(num_levels=24, first_levels=3), [3, 6, 12, 24, 24]),
        (TurboConfig(num_levels=10, first_levels=4), [4, 4, 8, 10, 10]),
        (TurboConfig(num_levels=4, first_levels=4), [4, 4, 4, 4, 4]),
    ],
)
def test_levels_double_to_the_number_asked_for(config, expected):
    assert [num_levels(config, progress) for progress in (0.0, 0.3, 0.6, 0.9, 1.0)] == expected


def test_more_first_levels_than_there_are_in_the_end_are_refused():
    with pytest.raises(ValueError, match="first_levels = 8"):
        TurboConfig(num_levels=4, first_levels=8)

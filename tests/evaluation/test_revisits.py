"""Worlds that remember or forget by construction, returns in a made-up clip table, and what the report says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from gamegen.controls import KEY_TURN_DEG
from gamegen.evaluation import metrics
from gamegen.evaluation.context import Options, SuiteConfig, load_context
from gamegen.evaluation.evaluation_report import Figure
from gamegen.evaluation.measurements import revisits
from gamegen.evaluation.report_builder import ReportBuilder
from gamegen.evaluation.revisits import (
    PAIRS_PER_CLIP,
    describe_views,
    distance_to_others,
    look_away,
    returns,
    view_distance,
)
from gamegen.evaluation.suite import EvaluationPlan, plan_evaluation, read_results, run_here
from gamegen.footage.clips import Clip, write_table
from tests.footage_samples import make_clip

CONFIG = SuiteConfig()
WIDTH, HEIGHT = 128, 96
PX_PER_DEG = 1.25
"""A view is 102 degrees wide: 12 chunks of turning leave nothing of it in sight."""


def panorama(seed: int) -> np.ndarray:
    """Blobs of colour all around, uint8 `(96, 450, 3)`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 56, 3), np.uint8)
    return cv2.resize(coarse, (round(360 * PX_PER_DEG), HEIGHT), interpolation=cv2.INTER_CUBIC)


class Panoramas:
    """Worlds whose frames are crops of panoramas, one a seed; what leaves sight is forgotten if `forgets`."""

    def __init__(self, num_worlds: int, forgets: bool = False) -> None:
        self.panoramas = [panorama(seed) for seed in range(num_worlds)]
        self.forgets = forgets
        self.heading_deg = 0.0
        self.headings_deg: list[float] = []

    def play(self, keys: set[str], num_chunks: int) -> np.ndarray:
        """Turns shown one frame late, as in footage."""
        frames = []
        for _ in range(4 * num_chunks):
            frames.append([self._view(around) for around in self.panoramas])
            self.heading_deg += KEY_TURN_DEG * (("right" in keys) - ("left" in keys))
            self.headings_deg.append(self.heading_deg)
        if self.forgets and "right" in keys:
            self.panoramas = [panorama(1000 + seed) for seed in range(len(self.panoramas))]
        return np.array(frames).swapaxes(0, 1)

    def _view(self, around: np.ndarray) -> np.ndarray:
        left = round(self.heading_deg * PX_PER_DEG) % around.shape[1]
        return np.roll(around, -left, 1)[:, :WIDTH]


def figures(worlds: Panoramas) -> dict[str, Figure]:
    views = look_away(worlds, CONFIG)
    arrays = {
        "before": describe_views(views[:, 0]),
        "back": describe_views(views[:, 2]),
        "words": np.zeros(len(views)),
    }
    return built(arrays).figures


def built(arrays: dict[str, np.ndarray], real: list[float] | None = None) -> ReportBuilder:
    results = {"revisits": arrays}
    if real is not None:
        results["real revisits"] = {"distance": np.array(real)}
    builder = ReportBuilder(results, CONFIG, "abc")
    builder.add_revisits()
    return builder


def of_revisits(options: Options, output: Path) -> EvaluationPlan:
    """The tasks of an evaluation that revisits need."""
    planned = plan_evaluation(options, output)
    return replace(planned, tasks=[task for task in planned.tasks if "revisits" in task.measurement])


def returning_clip(folder: Path, name: str = "clip", away_deg: float = 100, **changes: object) -> Clip:
    """A clip of 48 frames that looks away over frames 7 to 24 and back until frame 41."""
    heading = np.interp(np.arange(48), [6, 24, 41], [350, 350 + away_deg, 350]) % 360
    there, away = panorama(1)[:, :WIDTH], panorama(2)[:, :WIDTH]
    frames = np.stack([there if abs(turn - 350) < 1 else away for turn in heading])
    still = {
        "position": [[1.0, 2.0, 3.0]] * 48,
        "heading_deg": heading.tolist(),
        "weather": ["clear"] * 48,
    }
    return make_clip(folder, name, frames, **(still | changes))


def test_a_world_that_truly_returns_has_no_revisit_distance():
    worlds = Panoramas(4)
    found = figures(worlds)
    assert found[metrics.REVISIT_FEATURES].value < 1e-6 < 0.1 < found[metrics.OTHER_FEATURES].value
    assert found[metrics.REVISIT].value == pytest.approx(0, abs=1e-6)
    # It was turned away until nothing of the first view was left, and back.
    assert max(worlds.headings_deg) * PX_PER_DEG > WIDTH and worlds.heading_deg == pytest.approx(0)


def test_a_world_that_draws_another_place_has_a_revisit_distance_of_one():
    forgotten = figures(Panoramas(8, forgets=True))[metrics.REVISIT]
    assert forgotten.low <= 1 <= forgotten.high
    assert forgotten.value == pytest.approx(1, abs=0.1)


def test_reality_is_the_zero_of_the_revisit_distance():
    # Both seeds come back to .4 of what they left, and the other's view is .8 away.
    before, back = np.array([0.0, 1.2]), np.array([0.4, 0.8])
    views = {"before": before[:, None, None], "back": back[:, None, None], "words": np.zeros(2)}
    alone = built(views).figures[metrics.REVISIT]
    beside_reality = built(views, real=[0.3, np.nan, 0.1]).figures
    assert alone.value == pytest.approx(0.4 / 0.8)
    assert beside_reality[metrics.REVISIT].value == pytest.approx((0.4 - 0.2) / (0.8 - 0.2))
    assert beside_reality[metrics.REVISIT_FEATURES].real == pytest.approx(0.2)
    assert "abc" in beside_reality[metrics.REVISIT].units and "abc" not in alone.units


def test_the_place_of_things_in_a_view_matters():
    view = panorama(0)[:, :WIDTH]
    features = describe_views(np.stack([view, view, np.roll(view, WIDTH // 2, 1)]))
    assert features.shape == (3, 15, 112)
    assert view_distance(features[0], features[1]) == 0
    assert view_distance(features[0], features[2]) > 0.3


def test_other_places_are_those_of_the_same_words_where_there_are_any():
    before = np.zeros((3, 1, 1))
    back = np.array([1.0, 2.0, 6.0])[:, None, None]
    np.testing.assert_array_equal(distance_to_others(before, back, np.array([7, 7, 8])), [2, 1, 1.5])
    with pytest.raises(ValueError, match="at least 2"):
        distance_to_others(before[:1], back[:1], np.array([7]))


def test_without_other_places_the_report_says_so():
    views = {"before": np.zeros((2, 1, 1)), "back": np.full((2, 1, 1), 0.2), "words": np.zeros(2)}
    alone = built({name: value[:1] for name, value in views.items()})
    assert set(alone.figures) == {metrics.REVISIT_FEATURES} and "single seed" in alone.skipped[0]
    blank = built(views, real=[0.3])
    assert metrics.REVISIT not in blank.figures and "as alike" in blank.skipped[0]
    nowhere = built(views, real=[np.nan, np.nan])
    assert nowhere.figures[metrics.REVISIT].value == 1 and "revisits in real clips" in nowhere.skipped[0]


def test_returns_of_a_clip_show_one_view_with_a_look_away_between(tmp_path):
    clip = returning_clip(tmp_path)
    assert returns(clip) == [(0, 41), (6, 41)]
    full_turn = np.concatenate([np.full(4, 10.0), np.linspace(10, 370, 40) % 360, np.full(4, 10.0)])
    assert (0, 43) in returns(replace(clip, heading_deg=full_turn.tolist()))
    # Swings to and fro return more often than is counted.
    swings = replace(clip, heading_deg=[0.0, 0.0, 100.0, 100.0] * 12)
    assert len(returns(swings)) == PAIRS_PER_CLIP


@pytest.mark.parametrize(
    "changes",
    [
        {"away_deg": 80},
        {"position": [[0.1 * i, 0.0, 0.0] for i in range(48)]},
        {"tilt_deg": [0.0] * 24 + [5.0] * 24},
        {"time_of_day": ["noon"] * 24 + ["night"] * 24},
        {"view": ["third"] * 48},
        {"position": [], "heading_deg": [], "tilt_deg": []},
        {"heading_deg": [0.0] * 48},
    ],
    ids=["too little", "walked on", "looks up", "another time", "third person", "no poses", "never turned"],
)
def test_other_moments_are_no_returns(tmp_path, changes):
    assert returns(returning_clip(tmp_path, **changes)) == []


def test_a_tiny_model_is_measured_beside_real_clips_that_return(tiny_model, tmp_path):
    clips = [returning_clip(tmp_path / "clips", name) for name in ("a", "b")]
    clips.append(returning_clip(tmp_path / "clips", "c", away_deg=20))
    write_table(clips, tmp_path / "clips" / "clips.parquet")
    options = Options(checkpoint=str(tiny_model), clips=str(tmp_path / "clips"), config=SuiteConfig.tiny())
    planned = of_revisits(options, tmp_path)
    run_here(options, planned.tasks[:1], planned.folder, lambda chunks: None)
    # Stopped, it goes on with the other seed and the clips.
    assert [(task.measurement, task.first) for task in planned.missing()] == [
        ("revisits", 2),
        ("real revisits", 0),
    ]
    run_here(options, planned.missing(), planned.folder, lambda chunks: None)
    results = read_results(planned)[0]
    assert np.isnan(results["real revisits"]["distance"]).tolist() == [False, False, True]
    found = built(results["revisits"], results["real revisits"]["distance"].tolist()).figures
    real = found[metrics.REVISIT_FEATURES].real
    # Only what the MP4s lose tells the views of a real clip apart.
    assert real is not None and 0 < real < 0.2
    assert found[metrics.REVISIT_FEATURES].value > 0 and found[metrics.OTHER_FEATURES].value > 0
    more = replace(options, config=replace(options.config, num_seeds=6))
    assert {task.measurement: task.first for task in of_revisits(more, tmp_path).missing()} == {"revisits": 4}


def test_neighbouring_seeds_are_asked_for_one_place(tiny_model):
    context = load_context(Options(checkpoint=str(tiny_model), config=SuiteConfig.tiny()))
    advanced: list[int] = []
    arrays = revisits(context, range(1, 4), advanced.append)
    assert arrays["words"].tolist() == [0, 1, 1]
    assert arrays["before"].shape == arrays["back"].shape == (3, 15, 112)
    assert arrays["pictures/before, turned away, back"].shape == (3, 3, 32, 32, 3)
    config = context.config
    assert sum(advanced) == 3 * (config.warm_chunks + 2 * (config.turn_chunks + config.rest_chunks))

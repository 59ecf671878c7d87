"""The whole evaluation of a tiny model: figures, resuming, adding seeds, and worlds of known behaviour."""

import re
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest

from gamegen.evaluation import metrics
from gamegen.evaluation.context import Options, SuiteConfig
from gamegen.evaluation.evaluate_command import run
from gamegen.evaluation.evaluation_report import EvaluationReport, read_report
from gamegen.evaluation.metrics import METRICS
from gamegen.evaluation.reference_models import ReferenceModels
from gamegen.evaluation.report_builder import ReportBuilder
from gamegen.evaluation.report_page import PAGE_FILE, SHEET_FILE, VIDEO_FILE, side_by_side
from gamegen.evaluation.suite import plan_evaluation, run_here
from gamegen.media.mp4 import read_mp4
from tests.evaluation.samples import few_clips
from tests.evaluation.test_reference_models import MeanColour, MeanDifference, saved

ONLY_FROM_FILES = ("FID", "FVD", "LPIPS", "CLIP")


@pytest.fixture(scope="module")
def options(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Options:
    clips = few_clips(tmp_path_factory.mktemp("clips"))
    return Options(checkpoint=str(tiny_model), clips=clips, config=SuiteConfig.tiny())


@pytest.fixture(scope="module")
def finished(options: Options, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvaluationReport]:
    """The output of an evaluation that nothing stopped, and its report."""
    output = tmp_path_factory.mktemp("evaluation")
    return output, run(options, output, run_here)


@pytest.fixture(scope="module")
def short(options: Options) -> Options:
    """Without real clips and long play."""
    return replace(options, clips=None, config=replace(options.config, play_s=0, num_seeds=2))


@pytest.fixture(scope="module")
def shortly(short: Options, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvaluationReport]:
    """The output of that, and its report."""
    output = tmp_path_factory.mktemp("short")
    return output, run(short, output, run_here)


def test_every_figure_that_needs_no_weights_of_others_is_there(finished):
    _, report = finished
    expected = {name for name in METRICS if not any(judge in name for judge in ONLY_FROM_FILES)}
    # Worlds that begin from a gallery are compared with training frames; see the test of those.
    expected.remove(metrics.TRAINING_DISTANCE)
    # This model has no motion network.
    expected -= {name for name in expected if name.endswith(metrics.METHODS["warped"])}
    # Keys that nobody presses in these clips cannot be followed.
    optional = {name for name in expected if name.startswith("key ")}
    assert expected - optional <= set(report.figures) <= expected
    assert {"key w: precision", "key w: recall", "key w: F1"} <= set(report.figures)
    for name, figure in report.figures.items():
        assert figure.low <= figure.value <= figure.high, name
        assert len(figure.replicates) == 400 and all(np.isfinite(figure.replicates)), name
    assert len(report.curves) == 4
    # Nobody comes back to a view in clips of three seconds.
    expected_skipped = ["FID", "FVD", "LPIPS", "CLIP", "revisits in real clips"]
    assert [reason.split(":")[0] for reason in report.skipped] == expected_skipped


def test_the_report_is_written_as_json_and_as_a_page_with_pictures(finished):
    output, report = finished
    assert read_report(output / "report.json") == report
    page = (output / PAGE_FILE).read_text()
    for name in (metrics.TURNS, metrics.IMAGE_DISTANCE, "walking", "before, turned away, back", "long play"):
        assert escape(name) in page
    assert page.count("<svg") == 4 and 'src="data:image/jpeg;base64,' in page
    # Pictures in base64 may spell anything.
    without_pictures = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert "http" not in without_pictures.replace("http-equiv", "")
    assert (output / SHEET_FILE).is_file()
    # Two chunks of one clip, real and drawn, 32 pixels each and a gap of 4.
    assert read_mp4(output / VIDEO_FILE).shape == (8, 32, 68, 3)


def test_stopped_and_taken_up_equals_uninterrupted(short, shortly, tmp_path):
    """With real clips and long play: tests/jobs/test_evaluate.py."""

    class StoppedError(Exception):
        pass

    def stop_after_some(options, tasks, folder, advance):
        run_here(options, tasks[:3], folder, advance)
        raise StoppedError

    with pytest.raises(StoppedError):
        run(short, tmp_path, stop_after_some)
    left = plan_evaluation(short, tmp_path).missing()
    assert len(left) == len(plan_evaluation(short, tmp_path).tasks) - 3
    resumed = run(short, tmp_path, run_here)
    assert replace(resumed, wall_s=0) == replace(shortly[1], wall_s=0)


def test_more_seeds_or_longer_play_add_to_what_is_there_and_other_settings_do_not_mix(options, finished):
    output, _ = finished
    assert plan_evaluation(options, output).missing() == []
    more = replace(options, config=replace(options.config, num_seeds=4))
    assert {task.first for task in plan_evaluation(more, output).missing()} == {2}
    played_longer = replace(options, config=replace(options.config, play_s=6))
    assert {task.measurement for task in plan_evaluation(played_longer, output).missing()} == {"play"}
    longer = replace(options, config=replace(options.config, walk_chunks=4))
    assert len(plan_evaluation(longer, output).missing()) == len(plan_evaluation(longer, output).tasks)


def test_without_real_clips_or_long_play_it_says_what_is_left_out(finished, shortly):
    output, report = shortly
    assert metrics.TURNS in report.figures and metrics.IMAGE_DISTANCE not in report.figures
    assert not report.curves and not (output / VIDEO_FILE).exists()
    assert report.skipped[0].startswith("next frames, likeness") and "--no-long-play" in report.skipped[1]
    # The same seeds give the same figures, whatever else is measured.
    other = finished[1].figures["mean flow left (px)"].per_unit
    assert report.figures["mean flow left (px)"].per_unit == other[:2]


def test_reference_models_from_files_add_their_figures(options, tmp_path):
    reference_models = ReferenceModels(
        fid=saved(MeanColour(), tmp_path / "fid.pt"),
        fvd=saved(MeanColour(), tmp_path / "fvd.pt"),
        lpips=saved(MeanDifference(), tmp_path / "lpips.pt"),
    )
    short = replace(
        options, config=replace(options.config, play_s=0, num_seeds=2), reference_models=reference_models
    )
    report = run(short, tmp_path, run_here)
    assert report.figures["FID"].value > 0 and report.figures["FVD"].value > 0
    copied, drawn = (metrics.next_frame_name("lpips", method) for method in ("copy", "drawn"))
    assert report.figures[copied].value < report.figures[drawn].value
    expected = ["long play", "CLIP", "revisits in real clips"]
    assert [reason.split(":")[0] for reason in report.skipped] == expected


def test_half_a_file_is_no_result(options, tmp_path):
    todo = plan_evaluation(options, tmp_path)
    file = todo.tasks[0].file(todo.folder)
    file.parent.mkdir(parents=True)
    file.with_name(f"{file.name}.partial").write_bytes(b"half")
    assert todo.missing() == todo.tasks


def test_what_cannot_be_measured_is_refused(options, tmp_path):
    with pytest.raises(ValueError, match="seeds = 0"):
        SuiteConfig(num_seeds=0)
    with pytest.raises(ValueError, match="even number of seconds"):
        SuiteConfig(play_s=7)
    with pytest.raises(ValueError, match="0 clips of 4000 frames"):
        plan_evaluation(replace(options, config=replace(options.config, walk_chunks=1000)), tmp_path)


def test_marks_are_2_10_and_60_seconds_and_the_end():
    assert SuiteConfig(play_s=0).marks_s() == []
    assert SuiteConfig(play_s=10).marks_s() == [2, 10]
    assert SuiteConfig(play_s=60).marks_s() == [2, 10, 20, 30, 40, 50, 60]
    assert SuiteConfig(play_s=600).marks_s()[-2:] == [540, 600]


def test_real_and_drawn_stand_side_by_side():
    real, drawn = np.full((2, 3, 8, 10, 3), 200, np.uint8), np.full((2, 3, 8, 10, 3), 50, np.uint8)
    video = side_by_side(np.stack([real[0], drawn[0], real[1], drawn[1]]))
    assert video.shape == (3, 16, 24, 3)
    assert (video[:, :, :10] == 200).all() and (video[:, :, 14:] == 50).all()


class TestKnownWorlds:
    """Figures of results made by hand."""

    def make(self, results: dict, **config: int) -> dict:
        maker = ReportBuilder(results, replace(SuiteConfig.tiny(), **config), "abc")
        maker.run()
        return maker.figures

    def obedient(self, n: int = 4) -> dict:
        """Worlds that do all that they are asked, one of which does not stand still."""
        still = np.full(n, 0.1)
        still[0] = 2.0
        rng = np.random.default_rng(0)
        orders = np.full((n, 4), np.nan)
        orders[:2, 1], orders[2:, 3] = 1, 0
        motions = {
            "left flow px": np.ones(n),
            "right flow px": -np.ones(n),
            "forward expansion": np.ones(n),
            "forward speed px": np.full(n, 2.0),
            "still speed px": still,
        }
        return {
            "keys": motions,
            "contrasts": {
                "night brightness": np.full(n, 20.0),
                "noon brightness": np.full(n, 90.0),
                "desert warmth": np.ones(n),
                "snow warmth": np.zeros(n),
            },
            "orders": {"told": orders, "brightness after / before": np.array([0.5, 0.5, 0.9, 0.9])},
            "walks": {
                "told": np.tile([1.0, 0.0, 1.0, 1.0], (n, 1)),
                "sure": np.tile([1.0, 0.0, 1.0, 0.6], (n, 1)),
                "features": rng.standard_normal((n, 2, 5)),
                "dynamic": np.array([True, True, True, False]),
                "detail": np.full(n, 6.0),
                **dict.fromkeys(
                    ("motion smoothness", "subject consistency", "background consistency", "imaging quality"),
                    np.full(n, 0.9),
                ),
            },
        }

    def test_shares_and_means(self):
        figures = {name: figure.value for name, figure in self.make(self.obedient()).items()}
        assert figures[metrics.TURNS] == figures[metrics.FORWARD] == figures[metrics.NIGHT] == 1
        assert figures[metrics.STILL] == pytest.approx((2.0 + 3 * 0.1) / 8)
        assert figures[metrics.MAKE_NIGHT] == 0.5 and figures["dynamic degree"] == 0.75
        assert figures["weather as asked"] == 0 and figures["biome as asked"] == 1
        assert figures["environment as ordered"] == 1 and figures["view as ordered"] == 0
        assert figures[metrics.ALIGNMENT] == pytest.approx(0.65)

    def test_success_rates_are_each_seeds_share_of_what_it_was_asked(self):
        figures = self.make(self.obedient())
        # Two of three by the prompt, and for the first two seeds an order that was obeyed.
        assert figures[metrics.ENVIRONMENT].per_unit == pytest.approx((0.75, 0.75, 2 / 3, 2 / 3), abs=1e-5)
        # View and four actions; the first seed does not stand still, the last two did not obey an order for the view.
        assert figures[metrics.CHARACTER].per_unit == pytest.approx((0.8, 1, 5 / 6, 5 / 6), abs=1e-5)

    def test_drift_is_the_last_distance_over_the_first(self):
        rng = np.random.default_rng(1)
        real = rng.standard_normal((20, 2, 3, 4))
        # Two seconds: the real samples themselves, shifted by 1 in each of 4 dimensions; later by 3.
        start = real.reshape(5, 24, 4) + 1
        tones = {name: np.full((5, 2), 4.0) for name in ("detail", "brightness", "colour")}
        play = {"features": np.stack([start, start + 2], 1), **tones}
        results = self.obedient() | {
            "play": play,
            "real": {
                "features": real,
                "told": np.ones((20, 2, 4)),
                "sure": np.ones((20, 2, 4)),
                "detail": np.full((20, 2), 8.0),
            }
            | {
                name: np.full((20, 2), 0.9)
                for name in ("dynamic", "motion smoothness", "subject consistency")
            }
            | {name: np.full((20, 2), 0.9) for name in ("background consistency", "imaging quality")},
        }
        figures = self.make(results)
        assert figures[metrics.DRIFT].value == pytest.approx((4 * 9) / (4 * 1), rel=1e-4)
        assert figures[metrics.DETAIL].value == 0.5 and figures["detail / real clips"].value == 0.75

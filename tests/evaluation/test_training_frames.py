"""Worlds that begin from the gallery in an evaluation, and their distance to the training frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gamegen.evaluation import metrics
from gamegen.evaluation.context import Options, SuiteConfig, load_context
from gamegen.evaluation.evaluate_command import run
from gamegen.evaluation.features import feature_network
from gamegen.evaluation.measurements import walks
from gamegen.evaluation.suite import run_here
from gamegen.evaluation.training_frames import STRIDE_FRAMES, nearest_distance, training_features
from gamegen.models.checkpoint import load_checkpoint
from gamegen.models.text import load_text_encoder
from tests.conftest import save_tiny
from tests.gallery.samples import tiny_gallery
from tests.training.samples import curated_folder


def videos() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.repeat(rng.integers(0, 256, (2, 32, 32, 3), np.uint8), STRIDE_FRAMES, 0) for _ in range(2)]


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> Options:
    """A tiny model with a gallery, its worlds begun from it."""
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder)
    gallery = tiny_gallery(folder / "encoded", load_checkpoint(folder).model, load_text_encoder())
    gallery.save(folder / "gallery")
    config = replace(SuiteConfig.tiny(), start="gallery", num_seeds=2, play_s=0)
    return Options(checkpoint=str(folder), config=config)


def test_training_frames_are_at_no_distance_and_others_are(tmp_path):
    training = training_features(str(curated_folder(tmp_path, videos())), (32, 32))
    assert training.shape == (4, 1280)
    assert nearest_distance(training[1:3], training) < 1e-3
    other = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    assert nearest_distance(feature_network().maps(other).pooled(), training) > 0.1
    with pytest.raises(ValueError, match="gamegen curate"):
        training_features(str(tmp_path / "none"), (32, 32))


def test_worlds_begin_from_the_gallery_and_the_report_says_so(options, tmp_path):
    begun = run(options, tmp_path / "gallery", run_here).figures[metrics.ENVIRONMENT]
    assert "from the gallery" in begun.units
    drawn = replace(options, config=replace(options.config, start="drawn"))
    other = run(drawn, tmp_path / "drawn", run_here).figures[metrics.ENVIRONMENT]
    assert "gallery" not in other.units and options.fingerprint([]) != drawn.fingerprint([])


def test_walks_are_measured_beside_training_frames(options, tmp_path):
    training = training_features(str(curated_folder(tmp_path, videos())), (32, 32))
    context = replace(load_context(options), training_features=training)
    arrays = walks(context, range(2), lambda chunks: None)
    assert arrays["training distance"].shape == (2,) and (arrays["training distance"] > 0).all()


def test_a_model_without_a_gallery_cannot_begin_from_one(options, tiny_model):
    with pytest.raises(ValueError, match="has no gallery"):
        load_context(replace(options, checkpoint=str(tiny_model)))

"""Does the judge judge? Worlds of known behaviour, and a real engine with random weights."""

import functools

import numpy as np
import pytest
import torch

from gamegen.evaluation import motion
from gamegen.evaluation.control import ControlConfig, ControlEvaluator, Report, contact_sheet
from gamegen.models.checkpoint import Model, ModelConfig
from gamegen.models.text import load_text_encoder


def small_evaluator() -> ControlEvaluator:
    torch.manual_seed(0)
    config = ControlConfig(num_seeds=2, warm_chunks=1, hold_chunks=4, instruct_chunks=2, long_chunks=24)
    return ControlEvaluator(Model(ModelConfig.tiny()).eval(), load_text_encoder("minilm"), config)


@functools.cache
def small_report() -> Report:
    """All checks of a tiny model of random weights."""
    return small_evaluator().run(real_detail=10.0)


@pytest.fixture(scope="module")
def evaluator() -> ControlEvaluator:
    return small_evaluator()


class KnownWorld(ControlEvaluator):
    """Draws what obedient worlds would: texture that pans, grows or stays, and night that is dark."""

    def _open(self, prompts: list[str]) -> None:
        self.prompts, self.drawn = prompts, 0

    def _play(self, keys: set[str], num_chunks: int) -> list[np.ndarray]:
        return [self._draw(prompt, keys, 4 * num_chunks) for prompt in self.prompts]

    def _draw(self, prompt: str, keys: set[str], num_frames: int) -> np.ndarray:
        y, x = np.mgrid[:48, :80].astype(np.float32)
        turn = 2.0 * (("left" in keys) - ("right" in keys))
        frames = []
        for i in range(num_frames):
            scale = 1.02 ** (-i if "w" in keys else 0)
            u, v = (x - 40) * scale + 40 - turn * i, (y - 24) * scale + 24
            grey = 128 + 60 * np.sin(u / 3) * np.cos(v / 4)
            colour = np.array([1.2, 1.0, 0.6]) if prompt.endswith("desert") else np.array([0.9, 1.0, 1.1])
            frames.append(grey[..., None] * colour * (0.3 if prompt.endswith("night") else 1.0))
        return np.stack(frames).clip(0, 255).astype(np.uint8)


def test_an_obedient_world_passes(evaluator):
    known = KnownWorld.__new__(KnownWorld)
    known.config, known.seeds = evaluator.config, evaluator.seeds
    report = Report()
    known.keys(report)
    night = lambda a, b: b - a  # noqa: E731
    known.contrast(report, "night darker than noon", "night", "noon", night, motion.brightness)
    known.contrast(report, "desert warmer than snow", "desert", "snow", lambda a, b: a - b, motion.warmth)
    figures = report.figures
    assert figures["turns: flow left > 0 > right"] == 1
    assert figures["forward: flow expands"] == 1
    assert figures["still: speed as share of walking"] < 0.05
    assert figures["night darker than noon"] == figures["desert warmer than snow"] == 1


def test_a_model_is_played_and_reported():
    report = small_report()
    for name in ("turns: flow left > 0 > right", "make it night: darker by a fifth"):
        assert 0 <= report.figures[name] <= 1
    assert report.figures["long play: detail / real clips"] > 0
    assert len(report.per_seed["brightness after / before"]) == 2
    sheet = contact_sheet(report)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3


def test_the_same_seeds_give_the_same_figures(evaluator):
    first, second = Report(), Report()
    evaluator.keys(first)
    evaluator.keys(second)
    assert first.per_seed == second.per_seed

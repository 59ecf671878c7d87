"""All that is measured of one window of frames by itself, real or drawn."""

from __future__ import annotations

import numpy as np

from gamegen.evaluation import external, motion, quality
from gamegen.evaluation.bench import Bench
from gamegen.evaluation.features import feature_network
from gamegen.evaluation.scenes import ALIKE, ATTRIBUTES, WINDOW_FRAMES, describe

Arrays = dict[str, np.ndarray]

SAMPLE_STRIDE = 6
"""Frames (a quarter of a second) between those whose features are kept."""
_SMOOTHNESS_FRAMES = 24


def look(frames: np.ndarray, asked: dict[str, str], prompt: str, bench: Bench) -> Arrays:
    """Measures a window, uint8 `(T, H, W, 3)`; `asked` and `prompt` say what it should show.

    `features` `(T // 6, 1280)`; `told` and `sure` `(attributes,)`: whether the scene heads see what was asked and
    with which probability, nan for an attribute that was not; single numbers for the rest.
    """
    samples = sampled(frames)
    maps = feature_network().maps(samples)
    subject, background = quality.subject_and_background_consistency(maps)
    told, sure = recognise(frames[-WINDOW_FRAMES:], asked, bench)
    return {
        "features": maps.pooled(),
        "told": told,
        "sure": sure,
        "motion smoothness": np.array(quality.motion_smoothness(frames[-_SMOOTHNESS_FRAMES:])),
        "dynamic": np.array(quality.is_dynamic(frames)),
        "subject consistency": np.array(subject),
        "background consistency": np.array(background),
        "imaging quality": np.array(quality.imaging_quality(samples)),
        **tones(samples),
        **_by_judges(frames, samples, prompt, bench),
    }


def recognise(window: np.ndarray, asked: dict[str, str], bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    """Whether the heads see what is asked, and with which probability, by attribute; nan where nothing is asked."""
    seen = bench.heads.probabilities(describe(window)[None])
    told, sure = np.full(len(ATTRIBUTES), np.nan), np.full(len(ATTRIBUTES), np.nan)
    for i, name in enumerate(ATTRIBUTES):
        labels = bench.heads.labels[name]
        wanted = ALIKE.get(asked.get(name, ""), asked.get(name))
        # A value that the heads never saw is one that they cannot judge.
        if wanted in labels:
            probability = seen[name][0]
            told[i] = labels[int(probability.argmax())] == wanted
            sure[i] = probability[labels.index(wanted)]
    return told, sure


def tones(frames: np.ndarray) -> Arrays:
    """Detail, brightness and colour of frames."""
    measures = {"detail": motion.detail, "brightness": motion.brightness, "colour": motion.colour}
    return {name: np.array(measure(frames)) for name, measure in measures.items()}


def sampled(frames: np.ndarray) -> np.ndarray:
    """Every sixth frame of a window."""
    return frames[SAMPLE_STRIDE - 1 :: SAMPLE_STRIDE]


def stack(units: list[Arrays]) -> Arrays:
    """What was measured of each unit, with a first axis for the units."""
    return {name: np.stack([unit[name] for unit in units]) for name in units[0]}


def _by_judges(frames: np.ndarray, samples: np.ndarray, prompt: str, bench: Bench) -> Arrays:
    judges, arrays = bench.judges, Arrays()
    if judges.fid:
        arrays["fid features"] = external.torchscript(judges.fid).image_features(samples)
    if judges.fvd:
        arrays["fvd features"] = external.torchscript(judges.fvd).video_features(frames[None, :16])[0]
    if judges.clip:
        arrays["clip similarity"] = np.array(external.clip(judges.clip).similarity(samples, prompt))
    return arrays

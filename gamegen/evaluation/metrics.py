"""Table of the figures of a report: group, goal, target, and whether a figure decides a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gamegen.controls import MOVEMENT_KEYS
from gamegen.evaluation.evaluation_report import Figure

Goal = Literal["higher", "lower", "one"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Group, goal and target of a figure.

    `goal` is the direction of improvement; `one` means as near to 1 as can be, above and below alike.

    `target` is (least, most) that is wanted, None if nothing is. Figures that do not decide inform: a checkpoint is
    neither promoted nor refused for them.
    """

    group: str
    goal: Goal
    target: tuple[float | None, float | None] | None = None
    decides: bool = False

    def reached(self, figure: Figure) -> str:
        """`reached` or `missed`, with `, unsure` if the interval reaches over the target; empty without a target."""
        if self.target is None:
            return ""
        good = self._within(figure.value)
        sure = self._within(figure.low) == self._within(figure.high) == good
        return ("reached" if good else "missed") + ("" if sure else ", unsure")

    def wanted(self) -> str:
        """The target in words."""
        least, most = self.target or (None, None)
        if least is not None and most is not None:
            return f"{least:g} to {most:g}"
        return f"at least {least:g}" if least is not None else "" if most is None else f"at most {most:g}"

    def _within(self, value: float) -> bool:
        least, most = self.target or (None, None)
        return (least is None or value >= least) and (most is None or value <= most)


FOLLOWING = "Actions read off the frames by inverse dynamics"
CONTROL, WORDS, SCENES = "Keys", "Words", "Scenes as asked, told by classifiers"
NEXT, LIKENESS = "Next frame of a real clip", "Likeness to real clips"
MEMORY, QUALITY, LONG = "What one turns away from", "Qualities of the video", "Long play"
GROUPS = (CONTROL, FOLLOWING, WORDS, SCENES, NEXT, LIKENESS, MEMORY, QUALITY, LONG)

TURNS = "turns: flow left > 0 > right"
FORWARD = "forward: flow expands"
STILL = "still: speed as share of walking"
ACTION_SHARE = "keys: micro-F1 / that on the real clips"
ACTION_F1 = "keys: micro-F1"
CAMERA_SIGN = "camera turns to the right side"
NIGHT = "night darker than noon"
DESERT = "desert warmer than snow"
MAKE_NIGHT = "make it night: darker by a fifth"
ENVIRONMENT = "SR-E: environment as asked"
CHARACTER = "SR-C: character as asked"
ALIGNMENT = "text-video alignment (probability of what was asked)"
GAIN = "next frame: PSNR gain over copying (dB)"
SHORT_OF_CEILING = "next frame: PSNR short of the VAE's (dB)"
IMAGE_DISTANCE = "Fréchet image distance, EfficientNet-lite0"
VIDEO_DISTANCE = "Fréchet video distance, EfficientNet-lite0"
TRAINING_DISTANCE = "distance to the nearest training frame, EfficientNet-lite0"
REVISIT = "revisit distance: 0 remembered, 1 forgotten"
REVISIT_FEATURES = "revisit: features before and after turning away"
OTHER_FEATURES = "revisit: features of another place"
DRIFT = "Fréchet at the last mark / at 2 s"
DETAIL = "detail at the end / real clips"

METHODS = {
    "copy": "copy last frame (floor)",
    "warped": "last frame moved by the motion network",
    "flow": "last frame moved by the true optical flow",
    "drawn": "model",
    "streamed": "true chunk through the small decoder",
    "reconstructed": "VAE reconstruction (ceiling)",
}
NEXT_FRAME_MEASURES = {
    "psnr": ("PSNR (dB)", "higher"),
    "ssim": ("SSIM", "higher"),
    "lpips": ("LPIPS", "lower"),
}


def next_frame_name(measure: str, method: str) -> str:
    """Name of a next-frame figure, by the measure and method of `measurements`."""
    return f"next frame {NEXT_FRAME_MEASURES[measure][0]}: {METHODS[method]}"


def _next_frame_metrics() -> dict[str, Metric]:
    metrics = {}
    for measure, (_, goal) in NEXT_FRAME_MEASURES.items():
        for method in METHODS:
            decides = method == "drawn" and measure != "lpips"
            metrics[next_frame_name(measure, method)] = Metric(group=NEXT, goal=goal, decides=decides)  # type: ignore[arg-type]
    return metrics


METRICS: dict[str, Metric] = {
    TURNS: Metric(group=CONTROL, goal="higher", target=(0.9, None), decides=True),
    FORWARD: Metric(group=CONTROL, goal="higher", target=(0.8, None), decides=True),
    STILL: Metric(group=CONTROL, goal="lower", target=(None, 0.25), decides=True),
    "mean flow left (px)": Metric(group=CONTROL, goal="higher"),
    "mean flow right (px)": Metric(group=CONTROL, goal="lower"),
    ACTION_SHARE: Metric(group=FOLLOWING, goal="higher", target=(0.9, None), decides=True),
    ACTION_F1: Metric(group=FOLLOWING, goal="higher"),
    CAMERA_SIGN: Metric(group=FOLLOWING, goal="higher", target=(0.95, None), decides=True),
    **{
        f"key {key}: {name}": Metric(group=FOLLOWING, goal="higher")
        for key in MOVEMENT_KEYS
        for name in ("precision", "recall", "F1")
    },
    NIGHT: Metric(group=WORDS, goal="higher", target=(0.9, None), decides=True),
    DESERT: Metric(group=WORDS, goal="higher", target=(0.9, None), decides=True),
    MAKE_NIGHT: Metric(group=WORDS, goal="higher", target=(0.8, None), decides=True),
    ENVIRONMENT: Metric(group=SCENES, goal="higher", target=(0.8, None), decides=True),
    "biome as asked": Metric(group=SCENES, goal="higher"),
    "weather as asked": Metric(group=SCENES, goal="higher"),
    "time of day as asked": Metric(group=SCENES, goal="higher"),
    "environment as ordered": Metric(group=SCENES, goal="higher"),
    CHARACTER: Metric(group=SCENES, goal="higher", decides=True),
    "view as asked": Metric(group=SCENES, goal="higher"),
    "view as ordered": Metric(group=SCENES, goal="higher"),
    "actions as asked": Metric(group=SCENES, goal="higher"),
    ALIGNMENT: Metric(group=SCENES, goal="higher"),
    "CLIP similarity": Metric(group=SCENES, goal="higher"),
    GAIN: Metric(group=NEXT, goal="higher", target=(2.0, None)),
    SHORT_OF_CEILING: Metric(group=NEXT, goal="lower", target=(None, 3.0)),
    **_next_frame_metrics(),
    IMAGE_DISTANCE: Metric(group=LIKENESS, goal="lower", decides=True),
    VIDEO_DISTANCE: Metric(group=LIKENESS, goal="lower", decides=True),
    TRAINING_DISTANCE: Metric(group=LIKENESS, goal="higher"),
    "FID": Metric(group=LIKENESS, goal="lower"),
    "FVD": Metric(group=LIKENESS, goal="lower"),
    REVISIT: Metric(group=MEMORY, goal="lower", decides=True),
    REVISIT_FEATURES: Metric(group=MEMORY, goal="lower"),
    OTHER_FEATURES: Metric(group=MEMORY, goal="higher"),
    "motion smoothness": Metric(group=QUALITY, goal="higher"),
    "dynamic degree": Metric(group=QUALITY, goal="higher"),
    "subject consistency": Metric(group=QUALITY, goal="higher"),
    "background consistency": Metric(group=QUALITY, goal="higher"),
    "imaging quality": Metric(group=QUALITY, goal="higher"),
    "detail / real clips": Metric(group=QUALITY, goal="one", target=(0.5, 2.0)),
    DRIFT: Metric(group=LONG, goal="lower", target=(None, 2.0), decides=True),
    DETAIL: Metric(group=LONG, goal="one", target=(0.5, 2.0), decides=True),
}
"""Metrics by figure, in the order of the report."""

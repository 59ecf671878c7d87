"""Every figure of a report by name: its group, which way it should go, what is wanted of it, whether it decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gamegen.controls import MOVEMENT_KEYS
from gamegen.evaluation.report import Figure

Goal = Literal["higher", "lower", "one"]


@dataclass(frozen=True)
class Metric:
    """`goal` is which way a figure should go; `one` means as near to 1 as can be, above and below alike.

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
QUALITY, LONG = "Qualities of the video", "Long play"
GROUPS = (CONTROL, FOLLOWING, WORDS, SCENES, NEXT, LIKENESS, QUALITY, LONG)

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
DRIFT = "Fréchet at the last mark / at 2 s"
DETAIL = "detail at the end / real clips"

METHODS = {
    "copy": "copy last frame (floor)",
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
    """The name of a next-frame figure, by the names that `parts` uses."""
    return f"next frame {NEXT_FRAME_MEASURES[measure][0]}: {METHODS[method]}"


def _next_frame_metrics() -> dict[str, Metric]:
    metrics = {}
    for measure, (_, goal) in NEXT_FRAME_MEASURES.items():
        for method in METHODS:
            decides = method == "drawn" and measure != "lpips"
            metrics[next_frame_name(measure, method)] = Metric(NEXT, goal, None, decides)  # type: ignore[arg-type]
    return metrics


METRICS: dict[str, Metric] = {
    TURNS: Metric(CONTROL, "higher", (0.9, None), True),
    FORWARD: Metric(CONTROL, "higher", (0.8, None), True),
    STILL: Metric(CONTROL, "lower", (None, 0.25), True),
    "mean flow left (px)": Metric(CONTROL, "higher"),
    "mean flow right (px)": Metric(CONTROL, "lower"),
    ACTION_SHARE: Metric(FOLLOWING, "higher", (0.9, None), True),
    ACTION_F1: Metric(FOLLOWING, "higher"),
    CAMERA_SIGN: Metric(FOLLOWING, "higher", (0.95, None), True),
    **{
        f"key {key}: {name}": Metric(FOLLOWING, "higher")
        for key in MOVEMENT_KEYS
        for name in ("precision", "recall", "F1")
    },
    NIGHT: Metric(WORDS, "higher", (0.9, None), True),
    DESERT: Metric(WORDS, "higher", (0.9, None), True),
    MAKE_NIGHT: Metric(WORDS, "higher", (0.8, None), True),
    ENVIRONMENT: Metric(SCENES, "higher", (0.8, None), True),
    "biome as asked": Metric(SCENES, "higher"),
    "weather as asked": Metric(SCENES, "higher"),
    "time of day as asked": Metric(SCENES, "higher"),
    "environment as ordered": Metric(SCENES, "higher"),
    CHARACTER: Metric(SCENES, "higher", None, True),
    "view as asked": Metric(SCENES, "higher"),
    "view as ordered": Metric(SCENES, "higher"),
    "actions as asked": Metric(SCENES, "higher"),
    ALIGNMENT: Metric(SCENES, "higher"),
    "CLIP similarity": Metric(SCENES, "higher"),
    GAIN: Metric(NEXT, "higher", (2.0, None)),
    SHORT_OF_CEILING: Metric(NEXT, "lower", (None, 3.0)),
    **_next_frame_metrics(),
    IMAGE_DISTANCE: Metric(LIKENESS, "lower", None, True),
    VIDEO_DISTANCE: Metric(LIKENESS, "lower", None, True),
    "FID": Metric(LIKENESS, "lower"),
    "FVD": Metric(LIKENESS, "lower"),
    "motion smoothness": Metric(QUALITY, "higher"),
    "dynamic degree": Metric(QUALITY, "higher"),
    "subject consistency": Metric(QUALITY, "higher"),
    "background consistency": Metric(QUALITY, "higher"),
    "imaging quality": Metric(QUALITY, "higher"),
    "detail / real clips": Metric(QUALITY, "one", (0.5, 2.0)),
    DRIFT: Metric(LONG, "lower", (None, 2.0), True),
    DETAIL: Metric(LONG, "one", (0.5, 2.0), True),
}
"""In the order of the report."""

"""Does the world obey? Rollouts under one key each, prompts against each other, instructions, long play.

Every check gives the share of seeds that behave, so a single number says whether a checkpoint can be played:

    gamegen evaluate nano --seeds 20
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from gamegen.controls import Control
from gamegen.evaluation import motion
from gamegen.models.checkpoint import LatentDecoder, Model
from gamegen.models.text import TextEncoder
from gamegen.world import EngineConfig, WorldEngine, compose_prompt

PLACES = (
    "grassland",
    "desert",
    "snowy plain",
    "savanna",
    "forest",
    "tundra",
    "ice sheet",
    "sandstone desert",
)
KEYS = {"left": {"left"}, "right": {"right"}, "forward": {"w"}, "still": set()}


@dataclass(frozen=True)
class ControlConfig:
    """`warm_chunks` of standing still come first; keys are held for `hold_chunks`; 6 chunks are one second."""

    num_seeds: int = 20
    first_seed: int = 1_000_000
    warm_chunks: int = 3
    hold_chunks: int = 12
    instruct_chunks: int = 18
    long_chunks: int = 360
    long_seeds: int = 2


@dataclass
class Report:
    """Shares (0 to 1) and figures by name, per-seed numbers, and frames for a contact sheet by row name."""

    figures: dict[str, float] = field(default_factory=dict)
    per_seed: dict[str, list[float]] = field(default_factory=dict)
    pictures: dict[str, list[np.ndarray]] = field(default_factory=dict)


class ControlEvaluator:
    """Plays many seeds of one model in one batch."""

    def __init__(self, model: Model, text_encoder: TextEncoder, config: ControlConfig) -> None:
        self.config = config
        self.engine = WorldEngine(model, EngineConfig(max_sessions=config.num_seeds))
        self.decoder = LatentDecoder(model)
        self.text_encoder = text_encoder
        self.seeds = [config.first_seed + i for i in range(config.num_seeds)]

    def run(self, real_detail: float | None = None, long_play: bool = True) -> Report:
        """All checks; `real_detail` is `motion.detail` of real clips, for the long rollout's ratio."""
        report = Report()
        self.keys(report)
        self.contrast(
            report, "night darker than noon", "night", "noon", lambda a, b: b - a, motion.brightness
        )
        self.contrast(report, "desert warmer than snow", "desert", "snow", lambda a, b: a - b, motion.warmth)
        self.instruction(report)
        if long_play:
            self.long(report, real_detail)
        return report

    def keys(self, report: Report) -> None:
        """Held keys: flow signs of turns, expansion of walking, stillness."""
        flows: dict[str, list[np.ndarray]] = {}
        for name, keys in KEYS.items():
            self._open([f"{PLACES[i % len(PLACES)]} at noon" for i in range(self.config.num_seeds)])
            self._play(set(), self.config.warm_chunks)
            videos = self._play(keys, self.config.hold_chunks)
            flows[name] = [motion.optical_flow(video[len(video) // 2 :]) for video in videos]
            report.pictures[name] = [video[:: max(1, len(video) // 8)] for video in videos[:3]]
        left = np.array([motion.horizontal_flow_px(f) for f in flows["left"]])
        right = np.array([motion.horizontal_flow_px(f) for f in flows["right"]])
        forward = np.array([motion.expansion(f) for f in flows["forward"]])
        walking = np.array([motion.speed_px(f) for f in flows["forward"]])
        still = np.array([motion.speed_px(f) for f in flows["still"]])
        report.per_seed |= {
            "left flow px": left.tolist(),
            "right flow px": right.tolist(),
            "forward expansion": forward.tolist(),
            "walking speed px": walking.tolist(),
            "still speed px": still.tolist(),
        }
        report.figures |= {
            "turns: flow left > 0 > right": float(((left > 0) & (right < 0)).mean()),
            "forward: flow expands": float((forward > 0).mean()),
            "still: speed as share of walking": float(still.mean() / max(walking.mean(), 1e-6)),
            "mean flow left (px)": float(left.mean()),
            "mean flow right (px)": float(right.mean()),
        }

    def contrast(self, report: Report, name: str, a: str, b: str, difference, measure) -> None:
        """Two prompts with the same seeds: in how many is the measured difference positive?"""
        values, videos = [], []
        for words in (a, b):
            self._open([words] * self.config.num_seeds)
            videos = self._play({"w"}, 4)
            values.append(np.array([measure(video) for video in videos]))
            report.pictures[f"prompt {words}"] = [video[-1:] for video in videos[:8]]
        margin = difference(*values)
        report.per_seed[name] = margin.tolist()
        report.figures[name] = float((margin > 0).mean())

    def instruction(self, report: Report) -> None:
        """`make it night` in a running noon: darker by at least a fifth within three seconds?"""
        self._open([f"{PLACES[i % len(PLACES)]} at noon" for i in range(self.config.num_seeds)])
        before = np.array([motion.brightness(v[-4:]) for v in self._play({"w"}, self.config.warm_chunks)])
        states = self.text_encoder.encode(["make it night"])[0]
        for seed in self.seeds:
            self.engine.instruct(str(seed), states)
        videos = self._play({"w"}, self.config.instruct_chunks)
        after = np.array([motion.brightness(video[-4:]) for video in videos])
        report.pictures["make it night"] = [video[:: max(1, len(video) // 8)] for video in videos[:3]]
        report.per_seed["brightness after / before"] = (after / before).tolist()
        report.figures["make it night: darker by a fifth"] = float((after < 0.8 * before).mean())

    def long(self, report: Report, real_detail: float | None) -> None:
        """A minute of mixed keys: is there still detail, and does the picture still move?"""
        seeds, self.seeds = self.seeds, self.seeds[: self.config.long_seeds]
        self._open([f"{PLACES[i]} at noon" for i in range(len(self.seeds))])
        script = [{"w"}, {"w", "left"}, {"right"}, {"w", "d"}, {"left"}, {"s"}, {"w", "space"}, set()]
        videos: list[list[np.ndarray]] = [[] for _ in self.seeds]
        for part in range(self.config.long_chunks // 12):
            for video, piece in zip(videos, self._play(script[part % len(script)], 12), strict=True):
                video.append(piece)
        ends = [np.concatenate(video[-5:]) for video in videos]
        report.pictures["a minute of play"] = [
            np.stack([p[-1] for p in v[:: max(1, len(v) // 8)]]) for v in videos
        ]
        report.figures["long play: detail at the end"] = float(np.mean([motion.detail(end) for end in ends]))
        if real_detail:
            report.figures["long play: detail / real clips"] = (
                report.figures["long play: detail at the end"] / real_detail
            )
        moving = [motion.speed_px(motion.optical_flow(end[::4])) for end in ends]
        report.figures["long play: speed at the end (px)"] = float(np.mean(moving))
        self.seeds = seeds

    def _open(self, prompts: list[str]) -> None:
        states = self.text_encoder.encode([compose_prompt(prompt, "first") for prompt in prompts])
        self.memory: dict[str, torch.Tensor] = {}
        for seed, state in zip(self.seeds, states, strict=True):
            self.engine.open(str(seed), state, seed)

    def _play(self, keys: set[str], num_chunks: int) -> list[np.ndarray]:
        """Every seed's frames under held keys."""
        operations = {str(seed): Control(keys).operations() for seed in self.seeds}
        chunks = []
        for _ in range(num_chunks):
            latents = {sid: torch.from_numpy(x) for sid, x in self.engine.step(operations).items()}
            ids = [str(seed) for seed in self.seeds]
            decoded = self.decoder.decode([latents[i] for i in ids], [self.memory.get(i) for i in ids])
            chunks.append(decoded.numpy())
            self.memory = latents
        return list(np.concatenate(chunks, 1))


def contact_sheet(report: Report) -> np.ndarray:
    """One row of frames for each picture strip, uint8 `(H, W, 3)`."""
    rows = []
    for strips in report.pictures.values():
        if len(strips[0]) == 1:
            rows.append(np.concatenate([s[0] for s in strips], 1))
        else:
            rows += [np.concatenate(list(strip[:8]), 1) for strip in strips]
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 2), (0, width - row.shape[1]), (0, 0))) for row in rows], 0)

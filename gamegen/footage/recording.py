"""Records clips: plays the policy in a recorder, writes the MP4 and, last of all, the clip's row."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import TracebackType

import av
import numpy as np

from gamegen.controls import FPS
from gamegen.footage import captions
from gamegen.footage.clips import Clip, Instruction, file_sha256, write_table
from gamegen.footage.plan import Change, ClipPlan
from gamegen.footage.policy import ExplorerPolicy, Operation, PolicyConfig
from gamegen.footage.recorder import Recorder, Scene, SceneNotFoundError, Truth

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
MIN_KEPT_FRAMES = 240
X264_OPTIONS = {"crf": "20", "preset": "veryfast"}


class VideoWriter:
    """Writes an H.264 MP4 (24 frames/s, yuv420p) under a partial name and renames it when complete.

    Its index comes first, so that it streams.
    """

    def __init__(self, path: Path, width: int, height: int, options: dict[str, str] | None = None) -> None:
        self.path = path
        self._partial = path.with_name(path.name + ".partial")
        self._container = av.open(str(self._partial), "w", format="mp4", options={"movflags": "+faststart"})
        self._stream = self._container.add_stream("libx264", rate=FPS, options=options or X264_OPTIONS)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.thread_count = 1  # a recorder has one core

    def write(self, frame: np.ndarray) -> None:
        """Adds a frame, uint8 `(height, width, 3)` RGB."""
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self._container.mux(self._stream.encode(picture))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)


def clip_is_recorded(plan: ClipPlan, output: Path) -> bool:
    """Whether the clip's row, written last, is there."""
    return (output / f"{plan.clip_id}.parquet").exists()


def record_world(
    make_recorder: Callable[[int], Recorder],
    plans: list[ClipPlan],
    output: Path,
    policy_config: PolicyConfig | None = None,
) -> int:
    """Records the clips of one world that `output` lacks; returns how many it recorded.

    A clip for which no suitable place is found is left out with a warning. Each clip is one MP4 and one
    Parquet file of one row, both named by its `clip_id`.
    """
    missing = [plan for plan in plans if not clip_is_recorded(plan, output)]
    if not missing:
        return 0
    output.mkdir(parents=True, exist_ok=True)
    policy = ExplorerPolicy(policy_config or PolicyConfig(), missing[0].seed)
    with make_recorder(missing[0].world_seed) as recorder:
        return sum(record_clip(recorder, plan, policy, output) is not None for plan in missing)


def record_clip(recorder: Recorder, plan: ClipPlan, policy: ExplorerPolicy, output: Path) -> Clip | None:
    """Records one clip, trying other places (at last in other biomes) in turn; None if none is suitable."""
    for attempt in range(MAX_ATTEMPTS):
        try:
            clip = _try_clip(recorder, _vary_place(plan, recorder.biomes, attempt), policy, output)
        except SceneNotFoundError as error:
            logger.info("%s: %s", plan.clip_id, error)
            continue
        if clip is not None:
            write_table([clip], output / f"{plan.clip_id}.parquet")
            return clip
        logger.info("%s: lost the way, trying another place", plan.clip_id)
    logger.warning("%s: no suitable place in %d attempts, left out", plan.clip_id, MAX_ATTEMPTS)
    return None


def _vary_place(plan: ClipPlan, biomes: tuple[str, ...], attempt: int) -> ClipPlan:
    """The plan at another place; a world may lack a biome, so later attempts go through the others."""
    rng = Random(f"{plan.seed}/{attempt}")
    if attempt == 0:
        return plan
    biome = plan.scene.biome if attempt == 1 else rng.choice(biomes)
    scene = dataclasses.replace(plan.scene, biome=biome, place_seed=rng.randrange(1, 2**31))
    return dataclasses.replace(plan, scene=scene)


def _try_clip(recorder: Recorder, plan: ClipPlan, policy: ExplorerPolicy, output: Path) -> Clip | None:
    """Plays the plan; None if the player is lost before `MIN_KEPT_FRAMES` (later, the clip ends there)."""
    policy.begin_clip()
    path = output / f"{plan.clip_id}.mp4"
    observation = recorder.enter(plan.scene)
    height, width = observation.frame.shape[:2]
    changes = {change.frame: change for change in plan.changes}
    operations: list[Operation] = []
    truths: list[Truth] = []
    with VideoWriter(path, width, height) as video:
        for index in range(plan.num_frames):
            if observation.truth.lost:
                break
            operation = policy.act(observation.truth)
            video.write(observation.frame)
            operations.append(operation)
            truths.append(observation.truth)
            if index in changes:
                _apply(recorder, changes[index])
            observation = recorder.step(operation.keys, operation.yaw_deg, operation.pitch_deg)
    if len(truths) < min(MIN_KEPT_FRAMES, plan.num_frames):
        path.unlink()
        return None
    return _describe(recorder, plan, path, (width, height), operations, truths)


def _apply(recorder: Recorder, change: Change) -> None:
    if change.kind == "time":
        recorder.change(time_of_day=change.value)
    elif change.kind == "weather":
        recorder.change(weather=change.value)
    else:
        recorder.change(view=change.value)


def _describe(
    recorder: Recorder,
    plan: ClipPlan,
    path: Path,
    size: tuple[int, int],
    operations: list[Operation],
    truths: list[Truth],
) -> Clip:
    rng = Random(f"{plan.seed}/words")
    first = facts_of(recorder.game, plan.scene, truths[0].biome)
    return Clip(
        clip_id=plan.clip_id,
        path=path.name,
        sha256=file_sha256(path),
        size_bytes=path.stat().st_size,
        game=recorder.game,
        licence=recorder.licence,
        world_seed=plan.world_seed,
        fps=FPS,
        width=size[0],
        height=size[1],
        num_frames=len(truths),
        perspective=plan.scene.view,
        keys=[sorted(operation.keys) for operation in operations],
        yaw_deg=[operation.yaw_deg for operation in operations],
        pitch_deg=[operation.pitch_deg for operation in operations],
        biome=[truth.biome for truth in truths],
        weather=[truth.weather for truth in truths],
        time_of_day=[truth.time_of_day for truth in truths],
        view=[truth.view for truth in truths],
        position=[list(truth.position) for truth in truths],
        heading_deg=[truth.heading_deg for truth in truths],
        tilt_deg=[truth.tilt_deg for truth in truths],
        prompts=captions.compose_prompts(first, rng),
        caption=captions.compose_caption(first, rng),
        instructions=_instructions(plan.changes, first, truths, rng),
    )


def facts_of(game: str, scene: Scene, biome: str) -> captions.Facts:
    """What the words of a clip start from: the scene asked for, in the biome where the player really is."""
    return captions.Facts(game, biome, scene.weather, scene.time_of_day, scene.view)


def _instructions(
    changes: tuple[Change, ...], first: captions.Facts, truths: list[Truth], rng: Random
) -> list[Instruction]:
    """The words for the changes that the clip still contains."""
    instructions = []
    before = first
    for change in changes:
        if change.frame + 1 >= len(truths):
            break
        name = {"time": "time_of_day", "weather": "weather", "perspective": "view"}[change.kind]
        after = dataclasses.replace(before, **{name: change.value, "biome": truths[change.frame].biome})
        text, fields = captions.compose_instruction(change.kind, before, after, rng)
        instructions.append(Instruction(change.frame, change.kind, text, fields))
        before = after
    return instructions

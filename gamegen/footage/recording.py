"""Records clips: plays the policy in a recorder, writes the MP4 and, last of all, the clip's row."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np

from gamegen.constants import FPS
from gamegen.files import file_sha256
from gamegen.footage import captions
from gamegen.footage.clips import Clip, Instruction, write_table
from gamegen.footage.maneuvers import Operation
from gamegen.footage.plan import Change, ClipPlan
from gamegen.footage.policy import ExplorerPolicy, PolicyConfig
from gamegen.footage.recorder import Recorder, Scene, SceneNotFoundError, Truth
from gamegen.media.mp4 import Mp4Writer

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
MIN_KEPT_FRAMES = 240
CRF = 20


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
    config = policy_config or PolicyConfig()
    with make_recorder(missing[0].world_seed) as recorder:
        config = dataclasses.replace(config, tilts=config.tilts.within(recorder.tilts))
        policy = ExplorerPolicy(config, missing[0].seed)
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
    depths: list[np.ndarray] = []
    with Mp4Writer.open(path, (width, height), crf=CRF) as video:
        for index in range(plan.num_frames):
            if observation.truth.lost:
                break
            operation = policy.act(observation.truth)
            video.write(observation.frame)
            operations.append(operation)
            truths.append(observation.truth)
            if observation.inverse_depth is not None:
                depths.append(observation.inverse_depth)
            if index in changes:
                _apply(recorder, changes[index])
            observation = recorder.step(operation.keys, operation.yaw_deg, operation.pitch_deg)
    if len(truths) < min(MIN_KEPT_FRAMES, plan.num_frames):
        path.unlink()
        return None
    clip = _describe(recorder, plan, path, (width, height), operations, truths)
    if not depths:
        return clip
    return dataclasses.replace(
        clip, inverse_depth=np.stack(depths).tobytes(), vertical_fov_deg=recorder.vertical_fov_deg
    )


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

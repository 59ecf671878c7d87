"""Replay of a session from its log, and export as footage.

    log = from_json(Path("session.json").read_text())
    for frames in replay(log):                              # (4, H, W, 3) uint8
        ...
    other = log.branch(24, [Control({"left"})] * 6)
    export(other, Path("data/played"))

With the model and the type of device that drew a session, its world comes out as it was. Served sessions that shared a
forward pass with others differ by rounding.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from gamegen.engine.variants import Variant
from gamegen.engine.video_prompts import read_video_prompt
from gamegen.footage import played
from gamegen.footage.clips import Clip, write_table
from gamegen.media.first_frames import read_first_frames
from gamegen.media.frames import resize_to
from gamegen.media.mp4 import Mp4Writer
from gamegen.media.recorded_start import RecordedStart, is_recorded_start
from gamegen.models.checkpoint import read_card
from gamegen.sessions.log import LoggedInstruction, SessionLog, WorldSpec
from gamegen.sessions.start import StartKind
from gamegen.world import World

EXPORT_CRF = 14
"""Quality close to lossless: played frames are small, and curation compresses them once more."""


def replay(log: SessionLog, model: str | None = None) -> Iterator[np.ndarray]:
    """Chunks of the session in order, uint8 `(4, H, W, 3)`, drawn by `model` or the one that the log names.

    Raises ValueError at once for a model, first frames, words or video prompts that cannot be used.
    """
    return draw(World.load(model or log.spec.model), log)


def draw(world: World, log: SessionLog) -> Iterator[np.ndarray]:
    """Each chunk of the session, drawn in a loaded world; the world continues where the last chunk taken ends.

    `log.spec.model` is not looked at. Frames have the log's size, whatever the model's own is.
    """
    spec = log.spec
    # Read before anything is drawn: what cannot be used is refused now and not after an hour.
    for words in log.spoken:
        world.text_encoder.encode([words.text])
    _reset(world, spec)
    prompts = {name: read_video_prompt(world.engine.model, it) for name, it in log.video_prompts.items()}
    for latents in (*prompts.values(), None):
        world.engine.prompt_video(world.SESSION, latents)
    return _chunks(world, log, prompts)


def _reset(world: World, spec: WorldSpec) -> None:
    file, frames = spec.first_frames, None
    start: StartKind | RecordedStart = "drawn"
    if file is not None and is_recorded_start(file):
        start = RecordedStart.from_bytes(file)
    elif file is not None:
        start, frames = "picture", read_first_frames(file, world.size, world.engine.history)
    world.reset(spec.prompt, spec.seed, spec.perspective, frames, start)


def _chunks(world: World, log: SessionLog, prompts: dict[str, Tensor]) -> Iterator[np.ndarray]:
    said: dict[int, list[LoggedInstruction]] = {}
    for words in log.spoken:
        said.setdefault(words.chunk, []).append(words)
    followed = {prompt.chunk: prompts.get(prompt.video_prompt) for prompt in log.followed}
    for index, control in enumerate(log.controls):
        for words in said.get(index, ()):
            _say(world, words)
        if index in followed:
            world.engine.prompt_video(world.SESSION, followed[index])
        yield resize_to(world.step(control), (log.spec.width, log.spec.height))


def _say(world: World, words: LoggedInstruction) -> None:
    world.instruct(words.text or None, words.blend_chunks)


def export(
    log: SessionLog, folder: Path, start: int = 0, chunks: Iterable[np.ndarray] | None = None
) -> list[Clip]:
    """Writes the session from chunk `start` on as footage into `folder`, and returns the rows of its clips.

    Each clip is an MP4 (H.264, 24 frames/s) and a Parquet file with its row, both named by its `clip_id`, as recorders
    write them: `gamegen curate` reads the folder. `chunks` are the frames from `start` on, where they are drawn
    anyway; they are drawn here otherwise. Raises ValueError if there is no such chunk.
    """
    if not 0 <= start < len(log.controls):
        raise ValueError(f"chunk {start}: this session has {len(log.controls)}, export an earlier part")
    licence = str(read_card(Variant.parse(log.spec.model).model).get("licence", "unknown"))
    digest = played.session_digest(log)
    source = itertools.islice(replay(log), start, None) if chunks is None else iter(chunks)
    folder.mkdir(parents=True, exist_ok=True)
    clips = []
    for stretch in played.stretches(log, start):
        video = folder / f"{played.GAME}-{digest}-{stretch.start:06d}.mp4"
        with Mp4Writer.open(video, (log.spec.width, log.spec.height), crf=EXPORT_CRF) as writer:
            for _ in range(stretch.start, stretch.stop):
                frames = next(source, None)
                if frames is None:
                    raise ValueError(
                        f"the frames end before chunk {stretch.stop} of the session: draw all of it"
                    )
                for frame in frames:
                    writer.write(frame)
        clips.append(played.describe(log, stretch, video, licence))
        # Last, as recorders do it: a row says that its video is complete.
        write_table(clips[-1:], video.with_suffix(".parquet"))
    return clips

"""Odd files of every kind through all that reads media: the same pictures everywhere, or the same refusal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from deployments.ingress.uploads import _num_chunks
from deployments.videos.parsing import FormPart, _form_fields
from deployments.videos.schemas import NewVideo
from gamegen.curation.buckets import BucketConfig
from gamegen.curation.curate import CurationConfig, curate_clip
from gamegen.curation.filters import FilterConfig
from gamegen.curation.labelling import label_videos
from gamegen.curation.labels import Scenery
from gamegen.curation.shards import RejectedClip
from gamegen.engine.video_prompts import read_video_prompt
from gamegen.evaluation.real_clips import RealClip
from gamegen.footage.clips import Clip
from gamegen.media.first_frames import check_first_frames, read_first_frames
from gamegen.media.footage import read_footage
from gamegen.media.kinds import is_image, is_video
from gamegen.media.mp4 import read_mp4
from gamegen.models.inverse_dynamics import InverseDynamics, InverseDynamicsConfig
from gamegen.sessions.log import SessionLog, VideoPrompt, WorldSpec
from gamegen.sessions.log_file import from_json, to_json
from tests.data.make_media import Sample, corpus
from tests.data.media_files import CORNERS, LUMA, level

MAX_CHUNKS = 60
CURATION = CurationConfig(
    filters=FilterConfig(max_black_fraction=1, max_frozen_fraction=1, min_moving_fraction=0),
    buckets=BucketConfig(sizes=((64, 48), (48, 64)), lengths=(4,)),
    crf=4,
)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return corpus()


@pytest.fixture(scope="module")
def model() -> InverseDynamics:
    torch.manual_seed(0)
    return InverseDynamics(InverseDynamicsConfig.tiny()).eval()


def as_session(sample: Sample) -> np.ndarray:
    """The file of a new session, as the ingress checks it and a world reads it."""
    width, height = sample.size
    facts = {"width": width, "height": height, "remembered_chunks": MAX_CHUNKS}
    num_chunks = _num_chunks(sample.kind, sample.data, facts)
    frames = read_first_frames(sample.data, sample.size, MAX_CHUNKS)
    assert len(frames) == 4 * num_chunks
    return frames


def as_order(sample: Sample) -> np.ndarray:
    """The file of a clip's order whose client does not say what it is, as the API checks it and a worker reads it."""
    part = FormPart(
        name="input_reference", data=sample.data, media_type="application/octet-stream", is_file=True
    )
    order = NewVideo.model_validate({"prompt": "desert", **_form_fields([part])})
    if order.video is not None:
        check_first_frames("video", order.video, sample.size)
    else:
        check_first_frames("image", order.image or b"", sample.size)
    return read_first_frames(sample.data, sample.size, MAX_CHUNKS)


def as_replayed(sample: Sample) -> np.ndarray:
    """The file in a session's log, written and read again."""
    spec = WorldSpec(
        model="nano",
        prompt="desert",
        perspective="first",
        seed=1,
        width=64,
        height=48,
        first_frames=sample.data,
    )
    file = from_json(to_json(SessionLog(spec, [], [], [], {}))).spec.first_frames
    assert file is not None
    return read_first_frames(file, sample.size, MAX_CHUNKS)


def as_prompt(sample: Sample) -> np.ndarray:
    """The frames of a video prompt, as a world's model gets them."""
    network = SimpleNamespace(config=SimpleNamespace(width=64, height=48), encode=np.asarray)
    return cast(Any, read_video_prompt(cast(Any, network), VideoPrompt("pose", sample.data), sample.size))


def labelled(sample: Sample, model: InverseDynamics, folder: Path) -> tuple[Clip, Path]:
    folder.mkdir()
    file = folder / f"{sample.name}.mp4"
    file.write_bytes(sample.data)
    (clip,) = label_videos(file, folder / "keys.parquet", Scenery(), model).clips
    assert len(clip.keys) == len(clip.biome) == len(clip.position) == clip.num_frames
    assert (clip.width, clip.height) == sample.size
    return clip, file


def as_labelled(sample: Sample, model: InverseDynamics, folder: Path) -> np.ndarray:
    """The frames of footage that was labelled, as many as its row says."""
    clip, file = labelled(sample, model, folder)
    frames = read_footage(file)
    assert len(frames) == clip.num_frames
    return frames


def as_curated(sample: Sample, model: InverseDynamics, folder: Path) -> np.ndarray:
    """The frames of a curated clip."""
    row = curate_clip(*labelled(sample, model, folder), "train", CURATION)
    if isinstance(row, RejectedClip):
        raise ValueError(row.detail)
    return read_mp4(row["video"])


def as_evaluated(sample: Sample, model: InverseDynamics, folder: Path) -> np.ndarray:
    """The frames of a real clip of an evaluation."""
    return RealClip(*labelled(sample, model, folder)).frames(sample.size)


UPLOADS: list[Callable[[Sample], np.ndarray]] = [as_session, as_order, as_replayed, as_prompt]
TOLD_BY_BYTES = (as_order, as_replayed)
"""Those that nobody tells whether it is a picture or a video."""
FOOTAGE: list[Callable[[Sample, InverseDynamics, Path], np.ndarray]] = [as_labelled, as_curated, as_evaluated]


def fault(sample: Sample, read: Callable[[], np.ndarray], refused: str, is_upload: bool) -> str | None:
    """What is wrong with what was read of a file; None if nothing is."""
    try:
        frames = read()
    except ValueError as error:
        said = str(error)
        is_right = bool(refused) and re.search(refused, said) and "\n" not in said and len(said) < 400
        return None if is_right else f"{sample.name} was refused: {said}"
    if refused:
        return f"{sample.name} was read, though {refused!r}"
    # Uploads are read in chunks of four, the last of them.
    wanted = sample.frames[len(sample.frames) % 4 :] if is_upload else sample.frames
    if sample.is_bright:
        middle = frames[:, 20:28, 26:38].mean((1, 2, 3))
        # Darker than its numbers, since they have room for more light than white.
        is_shown = len(frames) == len(wanted) and (np.diff(middle) > 3).all() and 120 < middle[-1] < 180
        return None if is_shown else f"{sample.name} has greys of {middle.round()}"
    colours, middle = corners_and_middle(frames)
    corners = CORNERS.reshape(4, 3).astype(float)
    if sample.is_grey:
        corners = (corners @ LUMA)[:, None].repeat(3, 1)
    numbers = tuple(round((value - level(0)) / (level(1) - level(0))) for value in middle)
    error = np.abs(colours - corners).max()
    if numbers != wanted or error > sample.tolerance:
        return f"{sample.name} differs by {error:.0f}, shows {numbers} and not {wanted}"
    return None


def corners_and_middle(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean colours in the four corners `(T, 4, 3)` and the grey in the middle `(T,)`."""
    height, width = frames.shape[1:3]
    rows, columns = height // 4, width // 4
    corners = [
        frames[:, down, across].mean((1, 2))
        for down in (slice(0, rows), slice(height - rows, None))
        for across in (slice(0, columns), slice(width - columns, None))
    ]
    middle = frames[:, 2 * height // 5 : -(2 * height // 5), 2 * width // 5 : -(2 * width // 5)]
    return np.stack(corners, 1), middle.mean((1, 2, 3))


@pytest.mark.parametrize("read", UPLOADS)
def test_an_upload_shows_what_the_file_says_or_is_refused(read, samples):
    assert len(samples) > 60
    faults = [
        fault(sample, lambda s=sample: read(s), refusal(sample, read), read is not as_prompt)
        for sample in samples
        if sample.kind == "video" or read is not as_prompt
        if sample.name != "picture-as-video" or read not in TOLD_BY_BYTES
    ]
    assert not (wrong := [it for it in faults if it]), "\n".join(wrong)


@pytest.mark.parametrize("read", FOOTAGE)
def test_footage_shows_what_the_file_says_or_is_put_aside(read, samples, model, tmp_path):
    faults = [
        fault(sample, lambda s=sample: read(s, model, tmp_path / s.name), refused, False)
        for sample in samples
        if sample.kind == "video"
        for refused in [sample.refused or too_short(sample, read)]
    ]
    assert not (wrong := [it for it in faults if it]), "\n".join(wrong)


def refusal(sample: Sample, read: Callable) -> str:
    """Why an upload is refused; of a file that is neither a picture nor a video, nobody knows what it should be."""
    is_neither = not (is_image(sample.data) or is_video(sample.data))
    if is_neither and read in TOLD_BY_BYTES:
        return "send a complete"
    return sample.refused or sample.refused_upload


def too_short(sample: Sample, read: Callable) -> str:
    """Keys are read off two frames at least, and a curated clip has the four of its bucket."""
    if len(sample.frames) < 2:
        return "at least two"
    return "at least 4" if read is as_curated and len(sample.frames) < 4 else ""

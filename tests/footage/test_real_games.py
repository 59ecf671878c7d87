"""Short real recordings of both games: alignment of keys and frames, truth, changes, resumability."""

from __future__ import annotations

import dataclasses
import socket
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from gamegen.files import file_sha256
from gamegen.footage import recording, sources
from gamegen.footage.clips import Clip, read_table
from gamegen.footage.geometry import CameraTrack
from gamegen.footage.maneuvers import Operation
from gamegen.footage.minetest.client import Client, ClientConfig, find_game
from gamegen.footage.plan import Change, ClipPlan
from gamegen.footage.policy import ExplorerPolicy, PolicyConfig
from gamegen.footage.recorder import Scene, SceneNotFoundError, Truth
from gamegen.media.mp4 import read_mp4

needs_minetest = pytest.mark.skipif(find_game() is None, reason="the minetest program is not installed")
GAMES = [pytest.param("minetest", marks=needs_minetest), "vizdoom"]

TURN_FRAME, WALK_FRAME, TIME_FRAME, VIEW_FRAME, NUM_FRAMES = 12, 30, 44, 58, 72
VISIBLE_WITHIN = 12
TURNS_DEG = [(0.2 * step, 0.2 * (step % 5 - 2)) for step in range(-25, 31)]


class ScriptedPolicy(ExplorerPolicy):
    """Stands still, turns right, stands still, walks, stands still."""

    def begin_clip(self) -> None:
        super().begin_clip()
        self.frame = -1

    def act(self, truth: Truth) -> Operation:
        self.frame += 1
        if TURN_FRAME <= self.frame < TURN_FRAME + 8:
            return Operation(yaw_deg=2.4)
        if WALK_FRAME <= self.frame < WALK_FRAME + 8:
            return Operation(frozenset("w"))
        return Operation()


@dataclass(frozen=True)
class Recorded:
    folder: Path
    plan: ClipPlan
    clip: Clip
    frames: np.ndarray
    before_turns: Truth
    after_turns: Truth
    """Before and after `TURNS_DEG` in another place."""

    def change_at(self, index: int) -> float:
        """Mean difference between frame `index` and the next."""
        pair = self.frames[index : index + 2].astype(float)
        return float(np.abs(pair[1] - pair[0]).mean())


def plan_for(game: str) -> ClipPlan:
    scene = Scene("grassland", "clear", "day", "first", place_seed=5)
    changes = (Change(TIME_FRAME, "time", "night"), Change(VIEW_FRAME, "perspective", "third"))
    return ClipPlan(f"{game}-test", 3, NUM_FRAMES, scene, changes, seed=1)


@pytest.fixture(scope="module", params=GAMES)
def recorded(request, tmp_path_factory) -> Iterator[Recorded]:
    folder, plan = tmp_path_factory.mktemp("recording"), plan_for(request.param)
    with sources.open_recorder(request.param, plan.world_seed) as recorder:
        clip = recording.record_clip(recorder, plan, ScriptedPolicy(PolicyConfig(), 1), folder)
        assert clip is not None
        unknown = dataclasses.replace(plan.scene, place_seed=6)
        before = recorder.enter(unknown).truth
        assert before.biome == "grassland"
        for yaw_deg, pitch_deg in TURNS_DEG:
            after = recorder.step((), yaw_deg, pitch_deg).truth
    yield Recorded(folder, plan, clip, read_mp4(folder / clip.path), before, after)


def test_vizdoom_shows_the_view_it_tells_of_after_one_in_another_view() -> None:
    scene = plan_for("vizdoom").scene
    with sources.open_recorder("vizdoom", 3) as recorder:
        views = ("first", "third", "first")
        first, third, again = (recorder.enter(dataclasses.replace(scene, view=view)).frame for view in views)
    assert not np.array_equal(first, third)
    assert np.array_equal(first, again)


def test_an_operation_first_shows_in_the_next_frame(recorded: Recorded) -> None:
    before = max(recorded.change_at(i) for i in range(TURN_FRAME - 4, TURN_FRAME))
    assert recorded.change_at(TURN_FRAME) > 4 * before + 1
    assert recorded.clip.yaw_deg[TURN_FRAME - 1 : TURN_FRAME + 1] == [0.0, 2.4]
    after = TURN_FRAME + 8
    assert recorded.change_at(after - 1) > 4 * recorded.change_at(after)


def test_heading_and_position_tell_the_truth(recorded: Recorded) -> None:
    clip = recorded.clip
    turned = (clip.heading_deg[TURN_FRAME + 8] - clip.heading_deg[TURN_FRAME]) % 360
    assert turned == pytest.approx(8 * 2.4, abs=0.3)
    assert clip.heading_deg[TURN_FRAME + 1] != clip.heading_deg[TURN_FRAME]
    moves = [clip.position[i] != clip.position[i + 1] for i in range(WALK_FRAME - 2, WALK_FRAME + 8)]
    assert moves[0] is False and all(moves[3:]), "the position is that of the frame, not one heard of later"
    start, end = (np.array(clip.position[i])[[0, 2]] for i in (WALK_FRAME, WALK_FRAME + 10))
    step, heading = end - start, np.radians(clip.heading_deg[WALK_FRAME])
    assert np.linalg.norm(step) > 0.5
    # Heading 0 looks along the third axis and grows to the right, towards the first.
    assert step @ [np.sin(heading), np.cos(heading)] > 0.9 * np.linalg.norm(step)


def test_many_small_and_large_turns_add_up_exactly(recorded: Recorded) -> None:
    yaw_deg, pitch_deg = (sum(turns) for turns in zip(*TURNS_DEG, strict=True))
    turned = (recorded.after_turns.heading_deg - recorded.before_turns.heading_deg) % 360
    assert turned == pytest.approx(yaw_deg, abs=0.02)
    tilted = recorded.after_turns.tilt_deg - recorded.before_turns.tilt_deg
    assert tilted == pytest.approx(pitch_deg, abs=0.02)


def test_changes_show_soon_and_are_told(recorded: Recorded) -> None:
    clip, frames = recorded.clip, recorded.frames.astype(float)
    assert frames[TIME_FRAME + VISIBLE_WITHIN].mean() < 0.6 * frames[TIME_FRAME].mean()
    assert clip.time_of_day[TIME_FRAME] == "day"
    assert clip.time_of_day[TIME_FRAME + VISIBLE_WITHIN] == "night"
    assert frames[-1].mean() > 4, "a night must stay readable"
    assert clip.view[VIEW_FRAME] == "first"
    assert clip.view[VIEW_FRAME + 1] == "third"
    assert recorded.change_at(VIEW_FRAME) + recorded.change_at(VIEW_FRAME + 1) > 1
    assert [change.kind for change in clip.instructions] == ["time", "perspective"]
    assert [change.frame for change in clip.instructions] == [TIME_FRAME, VIEW_FRAME]


@needs_minetest
@pytest.mark.parametrize("recorded", ["minetest"], indirect=True)
def test_depth_and_pose_lead_back_to_where_things_were(recorded: Recorded) -> None:
    """While turning and walking, a frame is the one before it, moved by the true flow."""
    track = CameraTrack.from_row(recorded.clip.to_row())
    assert track is not None
    height, width = recorded.frames.shape[1:3]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    upper = slice(0, height * 2 // 3)
    for index in (TURN_FRAME + 4, WALK_FRAME + 4):
        before, frame = recorded.frames[index - 2], recorded.frames[index].astype(float)
        flow = cv2.resize(track.flow(index, index - 2).transpose(1, 2, 0), (width, height))
        moved = cv2.remap(
            before, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        # The hand at the bottom moves with the camera.
        by_flow, still = (np.square(picture[upper] - frame[upper]).mean() for picture in (moved, before))
        assert by_flow < still / 1.5


def test_the_row_describes_the_file(recorded: Recorded) -> None:
    clip = recorded.clip
    path = recorded.folder / clip.path
    assert (clip.sha256, clip.size_bytes) == (file_sha256(path), path.stat().st_size)
    assert recorded.frames.shape == (clip.num_frames, clip.height, clip.width, 3) == (72, 144, 256, 3)
    for name in ("keys", "yaw_deg", "pitch_deg", "biome", "weather", "view", "position", "tilt_deg"):
        assert len(getattr(clip, name)) == clip.num_frames
    assert set(clip.biome) == {"grassland"}
    assert read_table(recorded.folder)[0].instructions == clip.instructions
    assert clip.licence
    assert not list(recorded.folder.glob("*.partial"))


def test_a_recorded_clip_is_not_recorded_again(recorded: Recorded) -> None:
    def refuse(seed: int):
        raise AssertionError("no recorder is needed when nothing is missing")

    assert recording.record_world(refuse, [recorded.plan], recorded.folder) == 0


def test_a_clip_without_its_row_is_recorded_again(tmp_path: Path) -> None:
    plan = dataclasses.replace(plan_for("vizdoom"), num_frames=24, changes=())
    plans = [plan, dataclasses.replace(plan, clip_id="vizdoom-other")]

    def record() -> int:
        return recording.record_world(lambda seed: sources.open_recorder("vizdoom", seed), plans, tmp_path)

    assert record() == 2
    kept = (tmp_path / "vizdoom-test.mp4").stat().st_mtime_ns
    (tmp_path / "vizdoom-other.parquet").unlink()
    assert record() == 1
    assert (tmp_path / "vizdoom-test.mp4").stat().st_mtime_ns == kept
    assert len(read_table(tmp_path)) == 2


def test_a_failed_recording_leaves_no_clip(tmp_path: Path) -> None:
    class Breaks(ExplorerPolicy):
        def act(self, truth: Truth) -> Operation:
            raise RuntimeError("the policy broke")

    with sources.open_recorder("vizdoom", 3) as recorder, pytest.raises(RuntimeError, match="broke"):
        recording.record_clip(recorder, plan_for("vizdoom"), Breaks(PolicyConfig(), 1), tmp_path)
    assert list(tmp_path.iterdir()) == []


@needs_minetest
@needs_minetest
def test_the_game_runs_wherever_temporary_files_are_and_strangers_do_not_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaders of libraries end a path at a space, addresses of sockets after a hundred characters."""
    folder = tmp_path / "First Last" / ("x" * 120)
    folder.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    client = Client(ClientConfig(), world_seed=3)
    try:
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(f"/tmp/.X11-unix/X{client.display}")
            stranger.sendall(struct.pack("<BxHHHHxx", ord("l"), 11, 0, 0, 0))
            assert stranger.recv(1) == b"\0", "the display takes a client without its cookie"
    finally:
        client.close()
    assert [file.name for file in folder.iterdir()] == ["cache"]


def test_a_missing_biome_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from gamegen.footage.minetest import recorder as minetest

    monkeypatch.setitem(minetest.BIOMES, "grassland", "no_such_biome")
    with (
        sources.open_recorder("minetest", 3) as recorder,
        pytest.raises(SceneNotFoundError, match="grassland"),
    ):
        recorder.enter(plan_for("minetest").scene)


def test_unknown_games_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="choose one of minetest, vizdoom"):
        sources.open_recorder("chess", 1)
    with pytest.raises(ValueError, match="use 256x144"):
        sources.open_recorder("vizdoom", 1, (100, 60))

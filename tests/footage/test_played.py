"""Which clips a session becomes, and what their rows say."""

from __future__ import annotations

import numpy as np
import pytest

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.controls import Control
from gamegen.curation.encoded import aligned_operations, segment_prompts
from gamegen.footage import captions
from gamegen.footage.clips import read_table, write_table
from gamegen.footage.played import MAX_CHUNKS, Stretch, describe, instruction_kind, stretches
from gamegen.sessions.log import LoggedInstruction, SessionLog, WorldSpec

SPEC = WorldSpec(model="nano", prompt="desert at noon", perspective="first", seed=7, width=160, height=96)


def log_of(num_chunks: int, *spoken: LoggedInstruction) -> SessionLog:
    controls = [Control({"w", "left"} if i % 3 else {"space"}, i % 5) for i in range(num_chunks)]
    return SessionLog(SPEC, controls, list(spoken))


def test_a_long_session_becomes_clips_of_about_equal_length():
    parts = stretches(log_of(2 * MAX_CHUNKS + 1))
    assert [(part.start, part.stop) for part in parts] == [(0, 80), (80, 160), (160, 241)]
    assert [part.num_frames for part in parts] == [320, 320, 324]
    assert stretches(log_of(10), 4) == [Stretch(4, 10, ())]


def test_words_in_force_are_said_again_at_a_clips_start():
    log = log_of(
        2 * MAX_CHUNKS,
        LoggedInstruction(3, "fog"),
        LoggedInstruction(3, "rain"),
        LoggedInstruction(MAX_CHUNKS + 5, "snow"),
    )
    assert [part.words for part in stretches(log)] == [
        ((3, "rain"),),
        ((MAX_CHUNKS, "rain"), (MAX_CHUNKS + 5, "snow")),
    ]


def test_where_words_are_lifted_another_clip_begins():
    log = log_of(
        40,
        LoggedInstruction(2, ""),
        LoggedInstruction(5, "rain"),
        LoggedInstruction(20, ""),
        LoggedInstruction(30, "snow"),
        LoggedInstruction(40, ""),
    )
    assert stretches(log) == [Stretch(0, 20, ((5, "rain"),)), Stretch(20, 40, ((30, "snow"),))]
    assert stretches(log, 20) == [Stretch(20, 40, ((30, "snow"),))]


def clip_of(log: SessionLog, stretch: Stretch, folder):
    video = folder / "gamegen-x.mp4"
    video.write_bytes(b"a video")
    return describe(log, stretch, video, "CC0-1.0")


def test_an_operation_stands_one_frame_before_the_first_that_shows_it(tmp_path):
    log = log_of(9)
    clip = clip_of(log, Stretch(2, 9, ()), tmp_path)
    write_table([clip], tmp_path / "clips.parquet")
    (read,) = read_table(tmp_path / "clips.parquet")
    assert len(read.keys) == len(read.yaw_deg) == len(read.pitch_deg) == clip.num_frames == 28
    assert (read.keys[-1], read.yaw_deg[-1]) == ([], 0.0)
    first_of_chunk_3 = FRAMES_PER_CHUNK
    assert read.keys[first_of_chunk_3 - 2] == ["w"] and read.keys[first_of_chunk_3 - 1] == ["space"]
    wanted = np.stack([control.operations() for control in log.controls[2:]])
    wanted[0, 0] = 0
    np.testing.assert_allclose(aligned_operations(read, 7), wanted, atol=2e-3)


def test_words_stand_one_frame_before_the_first_that_shows_them(tmp_path):
    log = log_of(20, LoggedInstruction(0, "make it night"), LoggedInstruction(10, "let it snow"))
    (stretch,) = stretches(log)
    clip = clip_of(log, stretch, tmp_path)
    assert [(i.frame, i.kind, i.text) for i in clip.instructions] == [
        (0, "time", "make it night"),
        (39, "weather", "let it snow"),
    ]
    assert clip.biome[39] == "desert at noon, make it night"
    assert clip.biome[40] == "desert at noon, let it snow"
    segments = segment_prompts(clip, 20)
    assert [chunk for chunk, _ in segments] == [0, 0, 10]
    assert segments[0][1][0] == "first-person, desert at noon"
    assert all("snow" in prompt for prompt in segments[2][1])


@pytest.mark.parametrize("prompt", ["x" * 8000, "desert " * 280])
def test_prompts_made_of_long_words_stay_short_enough_to_be_read(prompt, tmp_path):
    spec = WorldSpec(model="nano", prompt=prompt, perspective="first", seed=7, width=160, height=96)
    log = SessionLog(spec, [Control()] * 20, [LoggedInstruction(3, "rain " * 250)])
    clip = clip_of(log, stretches(log)[0], tmp_path)
    for chunk, prompts in segment_prompts(clip, 20):
        # Of 300 tokens none is shorter than a character.
        assert all(len(text) < 300 for text in prompts[chunk == 0 :])


def test_what_words_are_about():
    orders = [
        *(("time", text) for texts in captions.TIME_ORDERS.values() for text in texts),
        *(("weather", text) for texts in captions.WEATHER_ORDERS.values() for text in texts),
        *(("weather", text) for texts in captions.WEATHER_STOPS.values() for text in texts),
        *(("perspective", text) for texts in captions.VIEW_ORDERS.values() for text in texts),
        ("biome", "walk into a forest"),
    ]
    assert [(instruction_kind(text), text) for _, text in orders] == orders

"""The log of a session."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import random

import numpy as np
import pytest
from PIL import Image

from gamegen.controls import KEYS, Control
from gamegen.media.untrusted import MAX_PROMPT_BYTES, MAX_VIDEO_BYTES
from gamegen.sessions.log import (
    CONTROL_BYTES,
    LoggedInstruction,
    LoggedVideoPrompt,
    SessionLog,
    VideoPrompt,
    WorldSpec,
    pack_controls,
    rounded,
    unpack_controls,
)
from gamegen.sessions.log_file import MAX_CHUNKS, MAX_FILE_BYTES, MAX_VIDEO_PROMPTS, from_json, to_json
from tests.media.test_first_frames import video

SPEC = WorldSpec(model="nano", prompt="desert at noon", perspective="first", seed=7, width=160, height=96)


def test_controls_come_back_as_they_were_logged():
    controls = [Control(), Control(KEYS, 1.5, -6), Control({"w", "left"}, -0.25)]
    packed = pack_controls(controls)
    assert len(packed) == 3 * CONTROL_BYTES == 30
    assert unpack_controls(packed) == controls


def test_a_rounded_control_draws_as_its_log_does():
    control = Control({"w"}, 1 / 3, 0.1)
    logged = unpack_controls(pack_controls([control]))[0]
    assert logged == rounded(control) == rounded(logged) != control
    assert np.array_equal(rounded(control).operations(), logged.operations())


@pytest.mark.parametrize(
    "packed, says",
    [(bytes(9), "9 bytes"), (b"\xff\xff" + bytes(8), "0xffff"), (b"\0\0\0\0\xc0\x7f" + bytes(4), "nan")],
)
def test_damaged_controls_are_refused(packed, says):
    with pytest.raises(ValueError, match=says):
        unpack_controls(packed)


def test_a_session_can_be_cut_where_another_branches_off():
    log = SessionLog(SPEC, [Control({"w"})] * 5, [LoggedInstruction(0, "rain"), LoggedInstruction(3, "snow")])
    assert log.until(3) == SessionLog(SPEC, [Control({"w"})] * 3, [LoggedInstruction(0, "rain")])
    with pytest.raises(ValueError, match="chunk 6: this session has 5"):
        log.until(6)


def test_a_branch_keeps_the_beginning_and_the_words_said_in_it():
    log = SessionLog(SPEC, [Control({"w"})] * 5, [LoggedInstruction(0, "rain"), LoggedInstruction(3, "snow")])
    assert log.branch(3, [Control({"s"})]) == SessionLog(
        SPEC, [Control({"w"})] * 3 + [Control({"s"})], [LoggedInstruction(0, "rain")]
    )


def test_a_part_knows_the_videos_that_are_followed_in_it():
    walk, run = VideoPrompt("motion", video(8)), VideoPrompt("canny", video(4))
    followed = [LoggedVideoPrompt(1, walk.id), LoggedVideoPrompt(2, ""), LoggedVideoPrompt(4, run.id)]
    log = SessionLog(SPEC, [Control()] * 5, [], followed, {walk.id: walk, run.id: run})
    assert log.until(5) == log
    assert log.branch(4, [Control()]) == SessionLog(SPEC, [Control()] * 5, [], followed[:2], {walk.id: walk})
    assert log.until(1) == SessionLog(SPEC, [Control()])


def test_a_video_prompt_is_named_by_what_it_holds():
    names = {VideoPrompt(kind, file).id for kind in ("canny", "pose") for file in (b"a", b"b")}
    assert len(names) == 4 and VideoPrompt("canny", b"a").id in names


def png_bytes() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 12, 3), 90, np.uint8)).save(file, "PNG")
    return file.getvalue()


def sample_log() -> SessionLog:
    spec = dataclasses.replace(
        SPEC, prompt='a "quoted" désert\n at noon', seed=2**63 - 1, first_frames=png_bytes()
    )
    controls = [Control({"w"})] * 12 + [Control(KEYS, 0.1, -6), Control({"left"}, -1 / 3), Control()]
    spoken = [LoggedInstruction(3, "make it rain"), LoggedInstruction(3, "", 2), LoggedInstruction(15, "x")]
    followed = [LoggedVideoPrompt(2, "walk"), LoggedVideoPrompt(4, ""), LoggedVideoPrompt(15, "walk")]
    prompts = {"walk": VideoPrompt("motion", video(4))}
    return SessionLog(spec, [rounded(c) for c in controls], spoken, followed, prompts)


def test_a_file_reads_back_as_written_and_people_can_read_it():
    log = sample_log()
    text = to_json(log)
    assert from_json(text) == log
    assert to_json(from_json(text)) == text
    assert '    {"chunks": 12, "keys": ["w"], "yaw_deg": 0.0, "pitch_deg": 0.0},\n' in text
    assert '"yaw_deg": 0.1,' in text
    assert from_json(to_json(SessionLog(SPEC))) == SessionLog(SPEC)


def test_a_file_holds_controls_as_they_are_logged():
    control = Control({"w"}, 1 / 3, 0.1)
    assert from_json(to_json(SessionLog(SPEC, [control]))).controls == [rounded(control)] != [control]


def test_what_a_person_would_leave_out_may_be_left_out():
    data = json.loads(to_json(SessionLog(SPEC)))
    del data["world"]["image"], data["world"]["video"]
    del data["followed"], data["video_prompts"]
    data["controls"], data["spoken"] = [{"chunks": 2, "keys": []}], [{"chunk": 1, "text": "rain"}]
    assert from_json(json.dumps(data)) == SessionLog(SPEC, [Control()] * 2, [LoggedInstruction(1, "rain")])


def test_a_video_that_a_world_goes_on_from_is_kept_too():
    log = SessionLog(dataclasses.replace(SPEC, first_frames=video(8)))
    data = json.loads(to_json(log))
    assert data["world"]["image"] is None and from_json(json.dumps(data)) == log
    for wrong, says in (
        ("%%%", "video is not valid base64"),
        (base64.b64encode(video(8)[:-40]).decode(), "the video is cut off"),
        (base64.b64encode(video(3)).decode(), "has 3 frames"),
        (base64.b64encode(png_bytes()).decode(), "is a picture"),
        ("A" * 12_000_000, "video has 12000000 characters and the limit is 11184812"),
    ):
        data["world"]["video"] = wrong
        with pytest.raises(ValueError, match=says):
            from_json(json.dumps(data))


def test_a_session_has_only_so_many_video_prompts_each_with_an_id_of_its_own():
    data = json.loads(to_json(sample_log()))
    (prompt,) = data["video_prompts"]
    data["video_prompts"] = [prompt, prompt]
    with pytest.raises(ValueError, match="an id is there twice"):
        from_json(json.dumps(data))
    data["video_prompts"] = [prompt | {"id": f"walk{i}"} for i in range(MAX_VIDEO_PROMPTS + 1)]
    with pytest.raises(ValueError, match=f"{MAX_VIDEO_PROMPTS + 1} video_prompts and the limit is"):
        from_json(json.dumps(data))


def test_the_largest_files_fit_into_a_log():
    files = MAX_VIDEO_BYTES + MAX_VIDEO_PROMPTS * MAX_PROMPT_BYTES
    assert 4 / 3 * files < MAX_FILE_BYTES / 2


def changed(path: str, value: object) -> str:
    """The sample's file with another value at `path`."""
    data = json.loads(to_json(sample_log()))
    *names, last = [int(name) if name.isdigit() else name for name in path.split(".")]
    place = data
    for name in names:
        place = place[name]
    place[last] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("format", "song", '"format": "gamegen session" was expected'),
        ("version", 2, "version = 2: this GameGen reads version 1"),
        ("version", True, "version = True"),
        ("colour", "red", "unknown key 'colour'"),
        ("world.colour", "red", "world: unknown key 'colour'"),
        ("world", None, "expected a mapping"),
        ("world.model", " ", "model is empty"),
        ("world.prompt", "word " * 2000, "prompt has 10000 characters and the limit is 8000"),
        ("world.prompt", "\ud800", "not valid Unicode"),
        ("world.perspective", "second", "perspective = 'second': expected one of"),
        ("world.seed", -1, "seed = -1: give a number from 0 to 9223372036854775807"),
        ("world.seed", 2**63, "seed = 9223372036854775808"),
        ("world.seed", 1.5, "seed = 1.5: expected int"),
        ("world.width", 100, "width = 100: must be a multiple of 16"),
        ("world.height", 10**9 * 16, "the limit is 921600"),
        ("world.image", "%%%", "image is not valid base64"),
        ("world.image", "é", "image is not valid base64"),
        ("world.image", base64.b64encode(b"no picture").decode(), "cannot be read: send a complete PNG"),
        ("world.image", base64.b64encode(png_bytes()[:-20]).decode(), "cannot be read: send a complete PNG"),
        ("world.image", "A" * 12_000_000, "image has 12000000 characters and the limit is 11184812"),
        ("world.video", base64.b64encode(video(4)).decode(), "image and video are both given"),
        ("controls", {}, "controls = {}: expected a list"),
        ("controls.0", 3, r"controls\[0\]: expected a mapping"),
        ("controls.1.chunks", 0, r"controls\[1\]: chunks = 0: give a number from 1"),
        ("controls.1.chunks", True, "chunks = True: expected int"),
        ("controls.1.chunks", MAX_CHUNKS + 1, f"chunks = {MAX_CHUNKS + 1}"),
        (
            "controls.1.chunks",
            MAX_CHUNKS,
            f"controls are {MAX_CHUNKS + 14} chunks and the limit is {MAX_CHUNKS}",
        ),
        ("controls.0.keys", ["w", "z"], r"controls\[0\]: unknown key 'z': use some of w a s d"),
        ("controls.0.keys", "w", "keys = 'w': expected a list"),
        ("controls.0.yaw_deg", 181, "yaw_deg = 181.0: give a number from -180.0 to 180.0"),
        ("controls.0.pitch_deg", float("nan"), "pitch_deg = nan"),
        ("controls.0.pitch_deg", float("inf"), "pitch_deg = inf"),
        ("spoken.0.chunk", 16, r"spoken\[0\].chunk = 16: give a number from 0 to 15"),
        ("spoken.1.chunk", 2, r"spoken\[1\].chunk = 2: give a number from 3 to 15"),
        ("spoken.1.blend_chunks", -1, r"spoken\[1\].blend_chunks = -1"),
        ("spoken.1.text", None, "text = None: expected str"),
        ("followed.0.video_prompt", "run", r"followed\[0\].video_prompt = 'run': there is none of this id"),
        ("followed.1.chunk", 1, r"followed\[1\].chunk = 1: give a number from 2 to 15"),
        ("video_prompts.0.kind", "depth", "kind = 'depth': expected one of"),
        ("video_prompts.0.id", "", "id = '': use 1 to 64 characters"),
        ("video_prompts.0.id", "x" * 65, "use 1 to 64 characters"),
        ("video_prompts.0.video", "%%%", "video is not valid base64"),
        ("video_prompts.0.video", "A" * 2_900_000, "video has 2900000 characters and the limit is 2796204"),
        ("video_prompts.0.video", base64.b64encode(video(3)).decode(), "video has 3 frames at 24 a second"),
        (
            "video_prompts.0.video",
            base64.b64encode(video(250)).decode(),
            "is 10.4 s long and the limit is 10",
        ),
        ("video_prompts", [{"id": "walk", "kind": "pose", "video": ""}] * 2, "is empty"),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_what_to_do(path, value, says):
    with pytest.raises(ValueError, match=says) as refusal:
        from_json(changed(path, value))
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a session log, or only a part of one"),
        ("[]", "not a session log"),
        ("[" * 100_000, "nested too deeply"),
        ('{"format": "gamegen session", "format": "gamegen session"}', "'format' is there twice"),
        ('{"format": "gamegen session", "version": 1}', "missing key 'world'"),
        ('{"seed": ' + "9" * 5000 + "}", "not a session log"),
        (" " * (MAX_FILE_BYTES + 1), f"{MAX_FILE_BYTES + 1} characters and the limit is {MAX_FILE_BYTES}"),
    ],
    ids=["empty", "list", "deep", "twice", "missing", "long number", "too long"],
)
def test_what_is_no_log_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        from_json(text)


def test_a_damaged_file_is_refused_or_reads_as_a_sound_log():
    rng = random.Random(0)
    text = to_json(sample_log())
    for cut in range(len(text) - 2):
        with pytest.raises(ValueError):
            from_json(text[:cut])
    num_refused = 0
    for _ in range(3000):
        characters = list(text)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(characters))
            characters[place : place + rng.randint(0, 3)] = rng.choice('{}[]",:0-e9 w\\n\ud800Nu')
        try:
            log = from_json("".join(characters))
        except ValueError:
            num_refused += 1
        else:
            assert from_json(to_json(log)) == log
    assert 1000 < num_refused < 3000


@pytest.mark.parametrize(
    "log",
    [
        SessionLog(dataclasses.replace(SPEC, prompt="")),
        SessionLog(dataclasses.replace(SPEC, perspective="second")),
        SessionLog(SPEC, [Control({"w"}, 1000)]),
        SessionLog(SPEC, [Control()], [LoggedInstruction(2, "late")]),
    ],
)
def test_nothing_is_written_that_could_not_be_read(log):
    with pytest.raises(ValueError):
        to_json(log)

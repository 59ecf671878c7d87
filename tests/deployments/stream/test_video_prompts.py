"""Videos that a world follows over a real Serve application: uploaded, asked for on the stream, and drawn again."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
import simplejpeg

from deployments.errors import ApiError
from deployments.ingress.uploads import Uploads
from deployments.settings import IngressSettings, load_settings
from gamegen.media.images import encode_jpegs
from gamegen.replay.replay import replay
from gamegen.sessions.log import LoggedVideoPrompt, SessionLog, VideoPrompt
from gamegen.sessions.log_file import MAX_VIDEO_PROMPTS, from_json
from tests.media.test_first_frames import video
from tests.serving import Frame, streaming


def upload(client, session: dict[str, Any], file: bytes, **fields: object) -> Any:
    body = {
        "resume_token": session["resume_token"],
        "kind": "canny",
        "video": base64.b64encode(file).decode(),
    }
    return client.post(f"/v1/sessions/{session['id']}/video-prompts", json={**body, **fields})


def uploaded(client, session: dict[str, Any], file: bytes) -> dict[str, Any]:
    response = upload(client, session, file)
    assert response.status_code == 201, response.text
    return response.json()


def log_of(client, session: dict[str, Any]) -> SessionLog:
    return from_json(client.get(f"/v1/sessions/{session['id']}/log").text)


def drawn_again(log: SessionLog) -> np.ndarray:
    """The frames of a log as a client gets them."""
    quality = load_settings().decoder.jpeg_quality
    return np.stack(
        [simplejpeg.decode_jpeg(j) for chunk in replay(log) for j in encode_jpegs(chunk, quality)]
    )


def check_shown(frames: list[Frame], log: SessionLog) -> None:
    expected = drawn_again(log)
    for frame in frames:
        shown = frame.pixels.astype(float)
        assert np.abs(shown - expected[frame.header.sequence]).mean() < 0.5, frame.header.sequence


async def until(player, chunk: int) -> list[Frame]:
    """Frames up to the last one of a chunk."""
    frames = [await player.frame()]
    while frames[-1].header.sequence < 4 * chunk + 3:
        frames.append(await player.frame())
    return frames


async def test_a_world_follows_a_video_for_as_long_as_it_lasts(address, client, begin):
    session = begin(seed=5)
    prompt = uploaded(client, session, video(26))
    assert uploaded(client, session, video(26)) == prompt and prompt["chunks"] == 6
    async with streaming(address, session) as player:
        frames = await until(player, 1)
        await player.control(7.0, video_prompt={"id": prompt["id"]})
        ack = await player.message("ack")
        assert (ack["video_prompt"], ack["timestamp"]) == (prompt["id"], 7.0)
        assert ack["last_chunk"] == ack["chunk"] + 5
        frames += await until(player, ack["last_chunk"] + 2)
    log = log_of(client, session)
    assert log.followed == [LoggedVideoPrompt(ack["chunk"], prompt["id"])]
    assert log.video_prompts == {prompt["id"]: VideoPrompt("canny", video(26))}
    check_shown(frames, log)
    bare = drawn_again(SessionLog(log.spec, log.controls))
    followed = drawn_again(log)
    first = 4 * ack["chunk"]
    np.testing.assert_array_equal(followed[:first], bare[:first])
    assert (followed[first : first + 4] != bare[first : first + 4]).any()


async def test_it_may_be_asked_for_early_replaced_and_lifted(address, client, begin):
    session = begin(seed=6)
    one, other = (uploaded(client, session, video(200, seed))["id"] for seed in (1, 2))
    async with streaming(address, session) as player:
        await player.control(1.0, video_prompt={"id": one})
        first = await player.message("ack")
        await until(player, first["chunk"] + 1)
        await player.control(2.0, video_prompt={"id": other})
        second = await player.message("ack")
        await until(player, second["chunk"] + 1)
        await player.control(3.0, video_prompt={"id": ""})
        lifted = await player.message("ack")
        assert (lifted["video_prompt"], lifted["last_chunk"]) == ("", None)
        frames = await until(player, lifted["chunk"] + 2)
    log = log_of(client, session)
    acks = first, second, lifted
    assert log.followed == [LoggedVideoPrompt(ack["chunk"], ack["video_prompt"]) for ack in acks]
    check_shown(frames, log)


async def test_it_goes_on_when_the_world_is_brought_back_and_in_a_branch(address, client, begin):
    session = begin(seed=7)
    prompt = uploaded(client, session, video(200))
    async with streaming(address, session) as player:
        await player.control(1.0, video_prompt={"id": prompt["id"]})
        ack = await player.message("ack")
        frames = await until(player, ack["chunk"] + 2)
    for seed in range(3):
        # As many others as the world replica has slots.
        guest = begin(seed=seed)
        order = {"session_id": guest["id"], "resume_token": guest["resume_token"]}
        assert client.post("/v1/control", json=order).status_code == 200
        client.delete(f"/v1/sessions/{guest['id']}")
    async with streaming(address, session) as player:
        frames += await until(player, frames[-1].header.chunk + 8)
    log = log_of(client, session)
    check_shown(frames, log)
    tokens = {"session_id": session["id"], "resume_token": session["resume_token"]}
    begun = {"branch": {**tokens, "chunk": ack["chunk"] + 3}}
    branch = client.post("/v1/sessions", json=begun).json()
    order = {"session_id": branch["id"], "resume_token": branch["resume_token"], "chunks": 3}
    answer = client.post("/v1/control", json=order).json()
    expected = drawn_again(log)[4 * answer["chunk"] :]
    for jpeg, picture in zip(answer["frames"], expected, strict=False):
        shown = simplejpeg.decode_jpeg(base64.b64decode(jpeg)).astype(float)
        assert np.abs(shown - picture).mean() < 0.5
    assert log_of(client, branch).video_prompts == log.video_prompts
    client.delete(f"/v1/sessions/{branch['id']}")


async def test_an_unknown_one_is_an_error_and_changes_nothing(address, client, begin):
    session, other = begin(seed=8), begin(seed=9)
    strange = uploaded(client, other, video(8))["id"]
    async with streaming(address, session) as player:
        await player.control(1.0, video_prompt={"id": strange})
        error = await player.message("error")
        assert (error["code"], error["fatal"]) == ("unknown_video_prompt", False)
        await player.frames(4)
    assert log_of(client, session).followed == []


@pytest.mark.parametrize(
    ("file", "fields", "status", "code"),
    [
        (video(8), {"resume_token": "guess"}, 401, "wrong_token"),
        (video(8), {"kind": "depth"}, 422, "invalid_request"),
        (video(8), {"video": "%"}, 422, "invalid_request"),
        (video(3), {}, 422, "invalid_video_prompt"),
        (video(250), {}, 422, "invalid_video_prompt"),
        (video(8)[:-40], {}, 422, "invalid_video_prompt"),
        (bytes(2 * 2**20 + 1), {}, 413, "video_too_large"),
    ],
    ids=["token", "kind", "base64", "short", "long", "part", "large"],
)
def test_a_wrong_upload_is_refused(client, begin, file, fields, status, code):
    response = upload(client, begin(), file, **fields)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_a_session_has_only_so_many(client, begin):
    session = begin()
    for seed in range(MAX_VIDEO_PROMPTS):
        uploaded(client, session, video(4, seed))
    response = upload(client, session, video(4, MAX_VIDEO_PROMPTS))
    assert (response.status_code, response.json()["error"]["code"]) == (409, "too_many_video_prompts")
    # One that is there already needs no place.
    uploaded(client, session, video(4, 0))
    response = upload(client, {**session, "id": "nobody"}, video(4))
    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_session")


async def test_a_model_that_follows_none_says_so():
    world: Any = None
    facts = {"model": "nano", "follows_video_prompts": False}
    with pytest.raises(ApiError, match="nano follows no video prompts") as refusal:
        await Uploads(IngressSettings(), world).check_video_prompt(VideoPrompt("pose", b""), facts)
    assert (refusal.value.status, refusal.value.code) == (422, "no_video_prompts")

"""Sessions beyond their socket: lists, logs, single chunks, branches, and the socket that begins one itself."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import simplejpeg
import websockets

from deployments.settings import load_settings
from gamegen.controls import Control
from gamegen.media.images import encode_jpegs
from gamegen.replay.replay import replay
from gamegen.sessions.log import LoggedInstruction
from gamegen.sessions.log_file import from_json
from tests.media.test_first_frames import video
from tests.serving import StreamClient, png, streaming


def once(client, session: dict, **order) -> dict:
    known = {"session_id": session["id"], "resume_token": session["resume_token"]}
    response = client.post("/v1/control", json={**known, **order})
    assert response.status_code == 200, response.text
    return response.json()


def pixels(answer: dict) -> np.ndarray:
    return np.stack([simplejpeg.decode_jpeg(base64.b64decode(frame)) for frame in answer["frames"]])


def test_sessions_are_listed_newest_first_without_their_tokens(client, begin):
    ids = [begin(seed=i)["id"] for i in range(3)]
    listed = client.get("/v1/sessions", params={"limit": 2}).json()
    assert [session["id"] for session in listed["sessions"]] == ids[:0:-1]
    assert listed["total"] >= 3 and "token" not in json.dumps(listed)
    assert client.get("/v1/sessions", params={"limit": 1000}).status_code == 422


@pytest.mark.parametrize("goes_on_from", [{}, {"image": png(40, 40)}, {"video": video(30)}])
def test_a_world_is_played_chunk_by_chunk_and_replayed_from_its_log(client, begin, goes_on_from):
    files = {kind: base64.b64encode(file).decode() for kind, file in goes_on_from.items()}
    session = begin(seed=5, resolution={"width": 48, "height": 32}, **files)
    seen = [
        once(client, session, keys=["w"], chunks=8),
        once(client, session, keys=["a"], camera={"yaw_deg": 1 / 3}),
        once(client, session, instruction={"text": "make it rain", "blend_s": 0.5}, chunks=2),
    ]
    assert [answer["chunk"] for answer in seen] == [0, 8, 9]
    log = from_json(client.get(f"/v1/sessions/{session['id']}/log").text)
    assert log.spec.first_frames == next(iter(goes_on_from.values()), None) and log.spec.seed == 5
    assert [control.keys for control in log.controls] == [{"w"}] * 8 + [{"a"}] + [set()] * 2
    assert log.spoken == [LoggedInstruction(9, "make it rain", 3)]
    jpegs = [
        jpeg for chunk in replay(log) for jpeg in encode_jpegs(chunk, load_settings().decoder.jpeg_quality)
    ]
    again = np.stack([simplejpeg.decode_jpeg(jpeg) for jpeg in jpegs])
    served = np.concatenate([pixels(answer) for answer in seen])
    assert served.shape == again.shape == (44, 32, 48, 3)
    assert np.abs(served.astype(float) - again).mean() < 0.5
    state = client.get(f"/v1/sessions/{session['id']}").json()
    assert (state["chunks"], state["state"], state["instruction"]) == (11, "waiting", "make it rain")


def test_a_log_has_room_for_so_many_words(client, begin):
    session = begin()
    for _ in range(2):
        once(client, session, instruction={"text": "rain " * 290})
    known = {"session_id": session["id"], "resume_token": session["resume_token"]}
    order = {**known, "instruction": {"text": "snow " * 290}}
    refused = client.post("/v1/control", json=order)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "too_many_words")
    assert "the limit is 4096" in refused.json()["error"]["message"]
    assert once(client, session)["chunk"] == 2


async def test_a_socket_goes_on_where_single_chunks_ended_and_keeps_them_away(address, client, begin):
    session = begin(seed=6)
    once(client, session, chunks=2)
    async with streaming(address, session) as player:
        assert (await player.frame()).header.sequence == 8
        order = {"session_id": session["id"], "resume_token": session["resume_token"]}
        refused = client.post("/v1/control", json=order)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "session_is_played")


@pytest.mark.parametrize(
    "order, status, says",
    [
        ({"resume_token": "guess"}, 401, "resume_token"),
        ({"keys": ["x"]}, 422, "unknown key 'x'"),
        ({"chunks": 25}, 422, "less than or equal to 24"),
        ({"instruction": {"text": "very " * 400}}, 422, "the limit is 300"),
        ({"session_id": "nobody"}, 404, "POST /v1/sessions"),
    ],
)
def test_wrong_single_chunks_are_refused(client, begin, order, status, says):
    session = begin()
    known = {"session_id": session["id"], "resume_token": session["resume_token"]}
    response = client.post("/v1/control", json={**known, **order})
    assert response.status_code == status
    assert says in response.json()["error"]["message"]


@pytest.mark.parametrize("goes_on_from", [{}, {"video": base64.b64encode(video(30)).decode()}])
def test_a_branch_shares_its_beginning_and_goes_its_own_way(client, begin, goes_on_from):
    session = begin(seed=7, **goes_on_from)
    walked = pixels(once(client, session, keys=["w"], chunks=12))
    tokens = {"session_id": session["id"], "resume_token": session["resume_token"]}
    branch = client.post("/v1/sessions", json={"branch": {**tokens, "chunk": 8}}).json()
    same = pixels(once(client, branch, keys=["w"], chunks=4))
    np.testing.assert_array_equal(same, walked[32:])
    log = from_json(client.get(f"/v1/sessions/{branch['id']}/log").text)
    assert log.controls == [Control({"w"})] * 12
    client.delete(f"/v1/sessions/{branch['id']}")
    # The other one is still where it was.
    assert client.get(f"/v1/sessions/{session['id']}").json()["chunks"] == 12


@pytest.mark.parametrize(
    "change, status, says",
    [
        ({"branch": {"chunk": 99}}, 422, "chunk 99: this session has 0"),
        ({"branch": {"resume_token": "guess"}}, 401, "resume_token"),
        ({"branch": {}, "prompt": "snow"}, 422, "prompt: a branch begins as its session did"),
        ({"prompt": "snow", "model": "other"}, 422, "'other' is not served here"),
        ({"prompt": "snow", "image": "", "video": ""}, 422, "image, video: a world goes on from one of them"),
    ],
)
def test_wrong_beginnings_are_refused(client, begin, change, status, says):
    if "branch" in change:
        session = begin()
        tokens = {"session_id": session["id"], "resume_token": session["resume_token"]}
        change = {**change, "branch": {**tokens, **change["branch"]}}
    response = client.post("/v1/sessions", json=change)
    assert response.status_code == status
    assert says in response.json()["error"]["message"]


async def test_a_socket_may_begin_a_world_itself(address, client):
    url = address.replace("http", "ws") + "/ws/stream?prompt=desert&seed=3"
    async with websockets.connect(url) as socket:
        player = StreamClient(socket)
        session = await player.message("session")
        assert (await player.frame()).header.sequence == 0
    assert client.get(f"/v1/sessions/{session['id']}").json()["prompt"] == "desert"
    async with streaming(address, session) as player:
        assert (await player.frame()).header.sequence > 0
        await player.send({"type": "bye"})
    async with websockets.connect(address.replace("http", "ws") + "/ws/stream?perspective=bird") as socket:
        error = await StreamClient(socket).message("error")
        assert "'first' or 'third'" in error["message"]


def test_a_world_that_was_pushed_out_is_drawn_again_from_its_video(client, begin):
    file = {"video": base64.b64encode(video(30)).decode()}

    def played_and_ended(seed: int) -> np.ndarray:
        session = begin(seed=seed, **file)
        frames = pixels(once(client, session, keys=["w"], chunks=4))
        client.delete(f"/v1/sessions/{session['id']}")
        return frames

    expected = played_and_ended(seed=8)
    session = begin(seed=8, **file)
    # Too few chunks for a snapshot, and afterwards more worlds than the replica has slots.
    beginning = pixels(once(client, session, keys=["w"], chunks=2))
    for seed in range(3):
        played_and_ended(seed)
    end = pixels(once(client, session, keys=["w"], chunks=2))
    np.testing.assert_array_equal(np.concatenate([beginning, end]), expected)

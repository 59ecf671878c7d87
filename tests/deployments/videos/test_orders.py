"""Orders over HTTP: placed once, shown, listed, cancelled, kept; and every error that is documented."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from deployments.videos.schemas import NewVideo
from gamegen.media.enlarging import UPSCALER
from gamegen.service.webhooks.webhook_client import AttemptResult
from tests.clip_server import ClipServer
from tests.deployments.videos.helping import ended, ordered
from tests.picture_samples import moving_square, mp4_bytes
from tests.serving import png


@pytest.fixture
def http(clip_server: ClipServer):
    with httpx.Client(base_url=clip_server.url, timeout=60) as client:
        yield client


JSON = {"Content-Type": "application/json"}


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["code"], body["type"]) == (status, code, f"/docs#{code}")
    assert len(body["detail"]) < 500
    return body


def test_an_order_is_accepted_shown_and_completed(http):
    answer = http.post("/v1/videos", json={"prompt": " a desert ", "num_frames": 8, "seed": 3})
    assert answer.status_code == 202
    video = answer.json()
    assert answer.url.join(answer.headers["location"]).path == f"/v1/videos/{video['id']}"
    assert (video["object"], video["status"], video["progress"]) == ("video", "queued", 0)
    assert video["prompt"] == "a desert"
    assert (video["size"], video["seconds"], video["num_steps"], video["seed"]) == (
        "160x96",
        "0.333333",
        8,
        3,
    )
    done = ended(http, video["id"])
    assert (done["state"], done["status"], done["progress"]) == ("COMPLETED", "completed", 100)
    assert done["expires_at"] == done["completed_at"] + 30 * 86400
    assert done["content_url"] == f"/v1/videos/{video['id']}/content"


@pytest.mark.parametrize(
    ("wish", "shown"),
    [
        ({"seconds": 0.5}, {"num_frames": 12, "seconds": "0.5"}),
        ({"size": "320x192"}, {"size": "320x192", "drawn_size": "160x96", "upscaler": UPSCALER}),
        ({}, {"drawn_size": "160x96", "upscaler": None, "interpolated_from_fps": None}),
        ({"resolution": "nano", "aspect_ratio": "16:9"}, {"size": "160x90", "upscaler": None}),
        ({"fps": 60}, {"fps": 60, "interpolated_from_fps": 24}),
        ({}, {"solver": "euler", "guidance_scale": 1, "warnings": []}),
        ({"solver": "heun", "num_steps": 5}, {"solver": "heun", "num_steps": 5}),
        ({"negative_prompt": "snow"}, {"guidance_scale": 3, "negative_prompt": "snow"}),
        ({"negative_prompt": "snow", "guidance_scale": 2}, {"guidance_scale": 2}),
        ({"resolution": "480p"}, {"size": "854x480"}),
        ({"resolution": "720p", "aspect_ratio": "9:16"}, {"size": "720x1280"}),
        ({"tier": "realtime", "num_frames": 4}, {"tier": "realtime", "num_steps": 4}),
        ({"fps": 30, "priority": 9, "num_steps": 3}, {"fps": 30, "priority": 9, "num_steps": 3}),
        ({"kept": True}, {"is_kept": True, "expires_at": None}),
        ({"webhook_url": "https://example.com/a"}, {"webhook_url": "https://example.com/a"}),
    ],
)
def test_what_is_left_out_is_filled_in(http, wish, shown):
    video = ordered(http, **{"num_frames": 4, **wish} if "seconds" not in wish else wish)
    assert {name: video[name] for name in shown} == shown


def test_a_request_is_one_order_however_often_it_comes(http):
    headers, body = {"X-Request-ID": "once-1"}, {"prompt": "a lake", "num_frames": 4}
    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(lambda _: http.post("/v1/videos", json=body, headers=headers), range(16))]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert {answer.headers["x-request-id"] for answer in answers} == {"once-1"}
    other = http.post("/v1/videos", json={**body, "num_frames": 5}, headers=headers)
    assert_problem(other, 409, "request_reused")


def test_what_was_drawn_already_is_given_at_once(http):
    body = {"prompt": "a lake again", "num_frames": 4, "seed": 77}
    ended(http, ordered(http, **body)["id"])
    again = ordered(http, **body)
    assert (again["state"], again["credits"]) == ("COMPLETED", 0)


def test_lists_are_by_state_and_in_pages(http):
    made = [ordered(http, prompt="a list", num_frames=4)["id"] for _ in range(3)]
    for video_id in made:
        ended(http, video_id)
    first = http.get("/v1/videos", params={"limit": 2, "status": "completed"}).json()
    assert [video["id"] for video in first["data"]] == made[:0:-1]
    assert (first["object"], first["has_more"], first["first_id"]) == ("list", True, made[2])
    second = http.get("/v1/videos", params={"limit": 1, "offset": 2}).json()
    assert second["data"][0]["id"] == made[0]
    assert http.get("/v1/videos", params={"status": "in_progress"}).json()["total"] == 0
    assert_problem(http.get("/v1/videos", params={"status": "lost"}), 422, "invalid_request")
    cursor = http.get("/v1/videos", params={"limit": 1, "after": made[2]}).json()
    assert cursor["data"][0]["id"] == made[1]
    oldest = http.get("/v1/videos", params={"limit": 1, "order": "asc", "after": made[0]}).json()
    assert oldest["data"][0]["id"] == made[1]


def test_a_video_is_cancelled_and_paid_back(http):
    before = http.get("/v1/credits").json()["credits"]
    video = ordered(http, prompt="wait here", num_frames=8)
    answer = http.delete(f"/v1/videos/{video['id']}").json()
    assert (answer["id"], answer["object"], answer["deleted"]) == (video["id"], "video.deleted", True)
    done = ended(http, video["id"])
    assert (done["state"], done["status"], done["error"]["code"]) == ("CANCELLED", "failed", "cancelled")
    assert before - http.get("/v1/credits").json()["credits"] <= video["credits"]
    assert_problem(http.delete(f"/v1/videos/{video['id']}"), 409, "already_ended")
    assert_problem(http.get(f"/v1/videos/{video['id']}/content"), 409, "video_cancelled")


def test_a_video_is_kept_and_no_longer(http):
    video = ended(http, ordered(http, num_frames=4)["id"])
    assert video["expires_at"]
    kept = http.post(f"/v1/videos/{video['id']}/keep")
    assert (kept.json()["is_kept"], kept.json()["expires_at"]) == (True, None)
    assert http.post(f"/v1/videos/{video['id']}/keep", json={"kept": False}).json()["expires_at"]
    assert_problem(
        http.post(f"/v1/videos/{video['id']}/keep", content=b"{", headers=JSON), 400, "invalid_json"
    )


def test_files_to_begin_with_are_looked_at_and_stored(http, clip_server):
    picture = png(160, 96)
    video = ordered(http, num_frames=8, image=base64.b64encode(picture).decode())
    order = clip_server.do(clip_server.queue.get(video["id"], "local")).order
    assert clip_server.objects.read(order.image_key) == picture
    bad = http.post("/v1/videos", json={"prompt": "a", "image": base64.b64encode(b"no picture").decode()})
    assert_problem(bad, 422, "invalid_image")
    for video, says in (
        (b"no video", "cannot be read"),
        (mp4_bytes(moving_square(3)), "3 frames at 24 a second: send at least 4"),
        (picture, "is a picture: give it as the image"),
        (mp4_bytes(np.zeros((8, 16, 640, 3), np.uint8)), "is a strip"),
    ):
        bad = http.post("/v1/videos", json={"prompt": "a", "video": base64.b64encode(video).decode()})
        assert_problem(bad, 422, "invalid_video")
        assert says in bad.text


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "prompt"),
        ({"prompt": "a" * 2001}, "2000"),
        ({"prompt": "a\x00b"}, "NUL"),
        ({"prompt": " "}, "prompt"),
        ({"prompt": "a", "colour": 1}, "colour"),
        ({"prompt": "a", "num_frames": 8, "seconds": 1}, "num_frames, seconds"),
        ({"prompt": "a", "num_frames": 1441}, "1440, 60 s"),
        ({"prompt": "a", "seconds": 0.01}, "frames"),
        ({"prompt": "a", "size": "101x100"}, "even"),
        ({"prompt": "a", "size": "1000x100"}, "strip"),
        ({"prompt": "a", "resolution": "4k"}, "the limit here is 2073600"),
        ({"prompt": "a", "seconds": 60, "resolution": "1080p", "fps": 60, "num_steps": 100}, "units of work"),
        ({"prompt": "a", "size": "160x96", "resolution": "480p"}, "size, resolution"),
        ({"prompt": "a", "aspect_ratio": "4:3"}, "resolution"),
        ({"prompt": "a", "style": "noir"}, "style"),
        ({"prompt": "a", "solver": "rk4"}, "solver"),
        (
            {"prompt": "a", "negative_prompt": "b", "guidance_scale": 1},
            "leaves the negative prompt without effect",
        ),
        ({"prompt": "a", "fps": 25}, "fps"),
        ({"prompt": "a", "priority": 10}, "priority"),
        ({"prompt": "a", "guidance_scale": "NaN"}, "guidance_scale"),
        ({"prompt": "a", "image": "%"}, "base64"),
        ({"prompt": "a", **{f"f{i}": 1 for i in range(50)}}, "fields"),
    ],
)
def test_a_wrong_field_is_named(http, body, word):
    assert word in assert_problem(http.post("/v1/videos", json=body), 422, "invalid_request")["detail"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"prompt": "a", "model": "sora-2"}, "unknown_model"),
        ({"prompt": "an endless story " * 20}, "prompt_too_long"),
        ({"prompt": "a", "webhook_url": "http://10.0.0.1/"}, "invalid_webhook_url"),
    ],
)
def test_what_the_parts_refuse_is_told(http, body, code):
    assert_problem(http.post("/v1/videos", json=body), 422, code)


def test_bodies_that_cannot_be_read_are_refused(http):
    assert_problem(http.post("/v1/videos", content=b"{nonsense"), 400, "invalid_json")
    assert_problem(http.post("/v1/videos", content=b"\xff"), 400, "invalid_json")
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert_problem(http.post("/v1/videos", content=b"--x\r\n", headers=form), 400, "invalid_form")
    bad_id = {"X-Request-ID": "a b"}
    assert_problem(http.post("/v1/videos", json={"prompt": "a"}, headers=bad_id), 400, "invalid_request_id")


def test_form_fields_left_empty_are_left_out(http):
    fields = dict.fromkeys(NewVideo.model_fields, (None, ""))
    fields |= {"prompt": (None, "a lake"), "num_frames": (None, "4"), "input_reference": ("", b"")}
    answer = http.post("/v1/videos", files=fields)
    assert answer.status_code == 202, answer.text
    assert (answer.json()["num_frames"], answer.json()["tier"]) == (4, "standard")
    without_prompt = http.post("/v1/videos", files={**fields, "prompt": (None, "")})
    assert "prompt" in assert_problem(without_prompt, 422, "invalid_request")["detail"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_an_order_is_read_in_every_encoding_of_unicode(http, encoding):
    body = '{"prompt": "Wüste", "num_frames": 4, "seed": null}'.encode(encoding)
    answer = http.post("/v1/videos", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["prompt"]) == (202, "Wüste")


@pytest.mark.parametrize("form", ["text", "object", "form"])
def test_an_input_reference_may_be_text(http, clip_server, form):
    picture = png(160, 96, (1, 2, 3))
    text = base64.encodebytes(picture).decode()
    body = {"prompt": "go on", "num_frames": 8}
    if form == "form":
        answer = http.post(
            "/v1/videos",
            files={**{k: (None, str(v)) for k, v in body.items()}, "input_reference": (None, text)},
        )
    else:
        reference = text if form == "text" else {"image_url": text, "file_id": None}
        answer = http.post("/v1/videos", json={**body, "input_reference": reference})
    assert answer.status_code == 202, answer.text
    order = clip_server.do(clip_server.queue.get(answer.json()["id"], "local")).order
    assert clip_server.objects.read(order.image_key) == picture


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"input_reference": "https://example.com/a.png"}, "nothing is fetched"),
        ({"input_reference": {"image_url": "http://10.0.0.1/"}}, "nothing is fetched"),
        ({"input_reference": {"file_id": "f"}}, "no files are kept here"),
        ({"input_reference": {}}, "no files are kept here"),
        ({"input_reference": {"image_url": "eA==", "file_id": "f"}}, "no files are kept here"),
        ({"input_reference": 7}, "not text"),
        ({"input_reference": ["a"]}, "not text"),
        ({"input_reference": "eA==", "image": "eA=="}, "leave one out"),
        ({"image": "https://example.com/a.png"}, "nothing is fetched"),
    ],
)
def test_an_input_reference_that_cannot_be_used_is_told(http, fields, says):
    answer = http.post("/v1/videos", json={"prompt": "go on", **fields})
    assert says in assert_problem(answer, 422, "invalid_request")["detail"]


def test_an_order_is_json_or_a_form(http):
    text = b'{"prompt": "a lake", "num_frames": 4}'
    assert http.post("/v1/videos", content=text).status_code == 202
    curl = {"Content-Type": "application/x-www-form-urlencoded"}
    assert http.post("/v1/videos", content=text, headers=curl).status_code == 202
    for kind in ("text/plain", "text/plain;charset=UTF-8", "application/octet-stream"):
        answer = http.post("/v1/videos", content=text, headers={"Content-Type": kind})
        assert_problem(answer, 415, "unsupported_media_type")
    elsewhere = http.post("/v1/videos", content=text, headers={**JSON, "Origin": "https://evil.example"})
    assert_problem(elsewhere, 403, "foreign_origin")


def test_large_bodies_and_files_are_refused(http):
    def pieces():
        for _ in range(14):
            yield b" " * (1 << 20)

    assert_problem(http.post("/v1/videos", content=pieces()), 413, "body_too_large")
    told = http.post("/v1/videos", content=b"".join(pieces()))
    assert_problem(told, 413, "body_too_large")
    image = base64.b64encode(bytes(8 * 1024 * 1024 + 1)).decode()
    assert_problem(http.post("/v1/videos", json={"prompt": "a", "image": image}), 413, "file_too_large")


def test_an_order_has_to_be_paid_for(http):
    large = {"prompt": "gold", "seconds": 60, "num_steps": 100, "tier": "cinema"}
    assert_problem(http.post("/v1/videos", json=large), 402, "insufficient_credits")


def test_what_a_setting_costs_is_said_and_charged(http):
    """A pass of the model is what counts: guidance takes two a step, Heun's solver two but for a chunk's last."""
    plain = {"num_frames": 480, "num_steps": 10, "seed": 5}
    first = ordered(http, **plain)
    assert first["warnings"] == []
    asked = [
        ({"guidance_scale": 2}, 2, "two passes of the model a step"),
        ({"negative_prompt": "snow"}, 2, "negative_prompt: led away from by guidance of 3"),
        ({"solver": "heun"}, 1.9, "heun takes two passes"),
        ({"solver": "heun", "guidance_scale": 2}, 3.8, "heun takes two passes"),
        ({"size": "1280x720"}, None, "the model draws 160x96"),
        ({"fps": 60}, None, "24 frames a second are drawn"),
    ]
    for change, factor, says in asked:
        video = ordered(http, **plain, **change)
        assert any(says in warning for warning in video["warnings"]), video["warnings"]
        if factor:
            assert video["credits"] == pytest.approx(factor * first["credits"], abs=0.004)
        else:
            assert video["credits"] > first["credits"]


def test_forbidden_words_and_frames_are_told(http):
    body = assert_problem(http.post("/v1/videos", json={"prompt": "forbidden"}), 451, "words_refused")
    assert "video_" in body["detail"]
    blocked = ended(http, ordered(http, prompt="block it", num_frames=4)["id"])
    assert (blocked["state"], blocked["error"]["code"]) == ("BLOCKED", "frames_blocked")
    assert_problem(http.get(f"/v1/videos/{blocked['id']}/content"), 451, "video_blocked")


def test_a_failure_is_told(http):
    failed = ended(http, ordered(http, prompt="fail", num_frames=4)["id"])
    assert (failed["state"], failed["error"]["message"]) == ("FAILED", "it did not work")
    assert_problem(http.get(f"/v1/videos/{failed['id']}/content"), 409, "video_failed")


@pytest.mark.parametrize("video_id", ["video_0", "a%00b", "%F0%9F%98%80", "x" * 64])
@pytest.mark.parametrize("path", ["", "/content", "/thumbnail", "/stream", "/deliveries"])
def test_an_unknown_video_is_not_found(http, video_id, path):
    assert_problem(http.get(f"/v1/videos/{video_id}{path}"), 404, "unknown_video")


def test_webhook_messages_are_listed_and_sent_again(http, clip_server):
    video = ended(http, ordered(http, num_frames=4, webhook_url="https://example.com/hook")["id"])
    claims = clip_server.do(clip_server.deliveries.claim(limit=100, per_account=100, lease_s=60))
    (claim,) = [claim for claim in claims if claim.payload["data"]["id"] == video["id"]]
    clip_server.do(clip_server.deliveries.settle(claim, AttemptResult(status=200)))
    (message,) = http.get(f"/v1/videos/{video['id']}/deliveries").json()["data"]
    assert (message["id"], message["state"], message["video_id"]) == (claim.id, "delivered", video["id"])
    assert (message["event"], message["status"], message["attempts"]) == ("video.completed", 200, 1)
    again = http.post(f"/v1/webhooks/deliveries/{claim.id}/redeliver")
    assert (again.status_code, again.json()["state"]) == (202, "pending")
    assert_problem(http.post("/v1/webhooks/deliveries/msg_2/redeliver"), 404, "unknown_delivery")
    first, second = (http.post("/v1/webhooks/secret").json()["secret"] for _ in range(2))
    assert first.startswith("whsec_") and second.startswith("whsec_") and first != second


def test_a_message_is_the_body_that_the_api_answers_with(http, clip_server):
    video = ended(http, ordered(http, num_frames=4, webhook_url="https://example.com/same")["id"])
    claims = clip_server.do(clip_server.deliveries.claim(limit=100, per_account=100, lease_s=60))
    (data,) = [claim.payload["data"] for claim in claims if claim.url == "https://example.com/same"]
    assert data == {name: video[name] for name in video.keys() - {"expires_at", "remaining_s"}}


def test_a_text_encoder_replica_that_dies_is_503_and_not_the_order_s_fault(http, clip_server, monkeypatch):
    long = {"prompt": "a very long story " * 20, "num_frames": 4}
    monkeypatch.setattr(clip_server.text_encoder, "is_dead", True)
    answer = http.post("/v1/videos", json=long)
    assert_problem(answer, 503, "not_ready")
    assert answer.headers["retry-after"] == "5"
    monkeypatch.setattr(clip_server.text_encoder, "is_dead", False)
    assert http.post("/v1/videos", json=long).status_code == 202


def test_the_older_address_is_another_name(http):
    answer = http.post("/api/v1/generate", json={"prompt": "an older client", "num_frames": 4})
    assert answer.status_code == 202
    assert ended(http, answer.json()["id"])["state"] == "COMPLETED"

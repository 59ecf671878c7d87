"""What a webhook says about an order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from deployments.videos.views import video_state
from gamegen.service.orders.order import Tier
from gamegen.service.orders.records import Failure, Generation
from gamegen.service.orders.states import FINAL, State
from gamegen.service.webhooks.payload import payload_of
from tests.service.orders.orders import order, result

COMPLETED = Generation(
    id="video_1",
    account="ada",
    state=State.COMPLETED,
    tier=Tier.STANDARD,
    priority=5,
    order=order(
        prompt="snow", perspective="third", num_frames=102, fps=30, solver="euler", guidance_scale=3.5, seed=7
    ),
    created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    started_at=None,
    finished_at=datetime(2026, 1, 2, 3, 5, 0, 250_000, tzinfo=UTC),
    attempts=1,
    fence=3,
    step=104,
    num_steps=104,
    step_ms=20.0,
    cancel_requested=False,
    is_kept=False,
    expired_at=None,
    webhook_url="https://hooks.example/",
    request_id=None,
    failure=None,
    result=replace(result("video_1"), content_bytes=1),
    millicredits=2500,
)


def test_a_finished_clip_is_told_in_the_words_of_the_api() -> None:
    assert payload_of(COMPLETED) == {
        "type": "video.completed",
        "timestamp": "2026-01-02T03:05:00.250000+00:00",
        "data": {
            "id": "video_1",
            "object": "video",
            "status": "completed",
            "state": "COMPLETED",
            "progress": 100,
            "created_at": 1767323045,
            "completed_at": 1767323100,
            "model": "nano",
            "prompt": "snow",
            "negative_prompt": "",
            "perspective": "third",
            "size": "160x96",
            "drawn_size": "160x96",
            "upscaler": None,
            "interpolated_from_fps": 24,
            "seconds": "4.25",
            "quality": "standard",
            "num_frames": 102,
            "fps": 30,
            "num_steps": 4,
            "guidance_scale": 3.5,
            "solver": "euler",
            "seed": 7,
            "tier": "standard",
            "priority": 5,
            "step": 104,
            "attempts": 1,
            "credits": 2.5,
            "is_kept": False,
            "error": None,
            "content_url": "/v1/videos/video_1/content",
            "thumbnail_url": "/v1/videos/video_1/thumbnail",
            "webhook_url": "https://hooks.example/",
            "warnings": [
                "guidance_scale: guidance of 3.5, which takes two passes of the model a step",
                "fps: 24 frames a second are drawn, those between are made from them",
            ],
        },
    }


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.BLOCKED])
def test_other_ends_are_told_with_the_reason_and_without_files(state: State) -> None:
    failure = Failure("prompt_refused", "The prompt may not be drawn.")
    message = payload_of(replace(COMPLETED, state=state, step=52, result=None, failure=failure))
    assert message["type"] == f"video.{state.lower()}"
    data = message["data"]
    assert (data["status"], data["state"], data["progress"]) == ("failed", state, 47)
    assert data["error"] == {"code": "prompt_refused", "message": "The prompt may not be drawn."}
    assert data["content_url"] is data["thumbnail_url"] is data["completed_at"] is None


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"is_kept": True},
        {"expired_at": datetime(2026, 2, 3, tzinfo=UTC)},
        {"state": State.CANCELLED, "result": None},
        {"state": State.FAILED, "result": None, "failure": Failure("no_luck", "It failed.")},
        {"state": State.BLOCKED, "failure": Failure("frames_refused", "Not to be shown.")},
    ],
)
def test_a_message_has_the_body_of_the_http_answer(change: dict[str, Any]) -> None:
    video = replace(COMPLETED, **change)
    http = video_state(video, kept_days=30, base_path="").model_dump(mode="json")
    server_fields = {"expires_at", "remaining_s"}
    assert server_fields < http.keys()
    assert payload_of(video)["data"] == {name: http[name] for name in http.keys() - server_fields}


@pytest.mark.parametrize("state", sorted(set(State) - FINAL))
def test_an_order_that_goes_on_has_no_message(state: State) -> None:
    with pytest.raises(ValueError, match="only orders that have ended"):
        payload_of(replace(COMPLETED, state=state))

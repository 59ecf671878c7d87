"""What a webhook says about an order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from gamegen.videos.order import Order, Tier
from gamegen.videos.records import Failure, Generation, Result
from gamegen.videos.states import FINAL, State
from gamegen.webhooks.payload import payload_of

COMPLETED = Generation(
    id="video_1",
    account="ada",
    state=State.COMPLETED,
    tier=Tier.STANDARD,
    priority=5,
    order=Order("nano", "snow", "", "third", 160, 96, 102, 30, 4, 3.5, 7),
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
    result=Result("videos/video_1/clip.mp4", 1, "", "", "videos/video_1/thumbnail.jpg"),
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
            "seconds": "4.25",
            "quality": "standard",
            "num_frames": 102,
            "fps": 30,
            "num_steps": 4,
            "guidance_scale": 3.5,
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
        },
    }


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.BLOCKED])
def test_other_ends_are_told_with_the_reason_and_without_files(state: State) -> None:
    failure = Failure("prompt_refused", "The prompt may not be drawn.")
    told = payload_of(replace(COMPLETED, state=state, step=52, result=None, failure=failure))
    assert told["type"] == f"video.{state.lower()}"
    data = told["data"]
    assert (data["status"], data["state"], data["progress"]) == ("failed", state, 47)
    assert data["error"] == {"code": "prompt_refused", "message": "The prompt may not be drawn."}
    assert data["content_url"] is data["thumbnail_url"] is data["completed_at"] is None


@pytest.mark.parametrize("state", sorted(set(State) - FINAL))
def test_an_order_that_goes_on_has_no_message(state: State) -> None:
    with pytest.raises(ValueError, match="tells how an order ended"):
        payload_of(replace(COMPLETED, state=state))

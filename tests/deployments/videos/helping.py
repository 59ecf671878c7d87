"""Helpers of the clip service's tests."""

from __future__ import annotations

import time
from typing import Any

import httpx

from tests.clip_server import PATIENCE_S


def ordered(http: httpx.Client, prompt: str = "a desert", **settings: Any) -> dict[str, Any]:
    """A new order as it was accepted."""
    answer = http.post("/v1/videos", json={"prompt": prompt, **settings})
    assert answer.status_code == 202, answer.text
    return answer.json()


def ended(http: httpx.Client, video_id: str) -> dict[str, Any]:
    """An order once it has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        video = http.get(f"/v1/videos/{video_id}").json()
        if video["status"] in ("completed", "failed"):
            return video
        time.sleep(0.02)
    raise AssertionError(f"{video_id} is still {video['state']}")

"""Clips ordered on the page, in a real browser, while a world is played there."""

from __future__ import annotations

import io

import av
import pytest

from tests.e2e.playing import CHROMIUM, wait_for_frames

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


COUNT_STREAMS = """
() => {
  window.streams = 0;
  window.EventSource = class extends EventSource {
    constructor(address) { super(address); window.streams += 1; }
  };
}
"""


def order(page, prompt: str, frames: int) -> None:
    page.get_by_test_id("prompt").fill(prompt)
    page.get_by_test_id("clip-frames").fill(str(frames))
    page.get_by_test_id("clip-order").click()


def cancelled(page, prompt: str):
    return page.locator("[data-testid=clip][data-state=CANCELLED]", has_text=prompt).first


def test_a_clip_is_recorded_beside_the_world(page):
    page.evaluate(COUNT_STREAMS)
    page.get_by_test_id("clips-open").click()
    order(page, "a lake at dawn", 12)
    # Others may be listed already.
    clip = page.locator("[data-testid=clip]", has_text="a lake at dawn").first
    clip.wait_for()
    # Keys are the world's own again.
    page.keyboard.down("w")
    assert page.locator(".key.held").count() == 1
    page.keyboard.up("w")
    page.locator("[data-testid=clip][data-state=COMPLETED]", has_text="a lake at dawn").first.wait_for()
    assert page.evaluate("streams") == 1
    picture = clip.locator(".clip-picture img")
    picture.wait_for()
    page.wait_for_function("image => image.naturalWidth > 0", arg=picture.element_handle())
    with page.expect_download() as download:
        clip.get_by_test_id("clip-download").click()
    assert download.value.suggested_filename.endswith(".mp4")
    with av.open(io.BytesIO(download.value.path().read_bytes())) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12
    wait_for_frames(page, 4)


def test_a_clip_is_watched_again_after_the_server_has_refused(page):
    refused = []

    def refuse_once(route):
        if refused:
            return route.continue_()
        refused.append(route.request.url)
        return route.fulfill(
            status=503, json={"error": {"code": "too_many_streams", "message": "polled instead"}}
        )

    page.route("**/v1/videos/*/stream", refuse_once)
    page.get_by_test_id("clips-open").click()
    order(page, "a road that is refused", 102)
    clip = page.locator("[data-testid=clip]", has_text="a road that is refused").first
    clip.get_by_test_id("clip-cancel").dispatch_event("click")
    cancelled(page, "a road that is refused").wait_for()
    assert len(refused) == 1


def test_a_clip_is_cancelled_and_listed_when_the_page_comes_back(page):
    page.get_by_test_id("clips-open").click()
    order(page, "a road without end", 102)
    clip = page.locator("[data-testid=clip]", has_text="a road without end").first
    # Not by the mouse, which waits until the page has two frames to spare: the clip may have been drawn by then.
    clip.get_by_test_id("clip-cancel").dispatch_event("click")
    cancelled(page, "a road without end").wait_for()
    assert "cancelled" in clip.inner_text()
    page.reload()
    wait_for_frames(page, 1)
    assert page.get_by_test_id("clip").count() == 0
    page.get_by_test_id("clips-open").click()
    cancelled(page, "a road without end").wait_for()


def test_what_is_refused_is_said(page):
    page.get_by_test_id("clips-open").click()
    order(page, "very " * 390, 12)
    page.wait_for_function(
        "document.querySelector('[data-testid=clip-word]').textContent.includes('limit is 300')"
    )
    wait_for_frames(page, 4)

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


def test_a_clip_is_cancelled_and_listed_when_the_page_comes_back(page):
    page.get_by_test_id("clips-open").click()
    order(page, "a road without end", 102)
    clip = page.locator("[data-testid=clip]", has_text="a road without end").first
    # Not by the mouse, which waits until the page has two frames to spare: the clip may have been drawn by then.
    clip.get_by_test_id("clip-cancel").dispatch_event("click")
    page.wait_for_selector("[data-testid=clip][data-state=CANCELLED]")
    assert "cancelled" in clip.inner_text()
    page.reload()
    wait_for_frames(page, 1)
    assert page.get_by_test_id("clip").count() == 0
    page.get_by_test_id("clips-open").click()
    page.wait_for_selector("[data-testid=clip][data-state=CANCELLED]")


def test_what_is_refused_is_said(page):
    page.get_by_test_id("clips-open").click()
    order(page, "very " * 390, 12)
    page.wait_for_function(
        "document.querySelector('[data-testid=clip-word]').textContent.includes('limit is 300')"
    )
    wait_for_frames(page, 4)

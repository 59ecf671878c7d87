"""The page behind a reverse proxy that serves it below a path, in a real browser."""

from __future__ import annotations

import io

import av
import pytest

from tests.e2e.playing import CHROMIUM, PATIENCE_MS, RECORD_SOCKETS, wait_for_frames
from tests.prefix_proxy import prefix_proxy

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

PREFIX = "/user/me/proxy/8000"


@pytest.mark.parametrize(
    ("names_prefix", "slash"), [(False, "/"), (True, "")], ids=["nothing told", "prefix named, no slash"]
)
def test_a_world_is_played_and_a_clip_ordered_below_a_prefix(browser, address, names_prefix, slash):
    with prefix_proxy(address, PREFIX, names_prefix=names_prefix) as base:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.add_init_script(RECORD_SOCKETS)
        asked, failed = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("response", lambda response: response.ok or failed.append(response.url))
        page.goto(base + slash)
        play_and_order(page)
        read_the_manual(page)
        sockets = page.evaluate("sockets.map(({ url }) => url)")
        context.close()
    assert all(url.startswith(f"{base.replace('http', 'ws')}/v1/sessions/") for url in sockets)
    if slash:
        assert failed == []
        assert [url for url in asked if not url.startswith((base, "blob:", "data:"))] == []


def play_and_order(page) -> None:
    wait_for_frames(page, 4)
    page.wait_for_function("document.querySelector('.moment img').naturalWidth > 0")
    page.get_by_test_id("clips-open").click()
    page.get_by_test_id("prompt").fill("a lake behind a proxy")
    page.get_by_test_id("clip-frames").fill("4")
    page.get_by_test_id("clip-order").click()
    clip = page.locator("[data-testid=clip][data-state=COMPLETED]", has_text="a lake behind a proxy").first
    clip.wait_for()
    page.wait_for_function(
        "picture => picture.naturalWidth > 0", arg=clip.locator(".clip-picture img").element_handle()
    )
    with page.expect_download() as download:
        clip.get_by_test_id("clip-download").click()
    with av.open(io.BytesIO(download.value.path().read_bytes())) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4


def read_the_manual(page) -> None:
    """And comes back to the same world."""
    session_id = page.evaluate("gamegen.sessionId")
    page.get_by_role("link", name="API").click()
    page.get_by_role("heading", name="POST /v1/sessions").first.wait_for()
    page.get_by_role("link", name="Play").click()
    page.wait_for_function("window.gamegen?.sessionId")
    wait_for_frames(page, 1)
    assert page.evaluate("gamegen.sessionId") == session_id
    page.evaluate("fetch(`v1/sessions/${gamegen.sessionId}`, { method: 'DELETE' })")

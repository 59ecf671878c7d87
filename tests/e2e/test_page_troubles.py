"""What goes wrong around the page is said on it, and does not stop what could go on."""

from __future__ import annotations

import pytest

from tests.e2e.playing import CHROMIUM, PATIENCE_MS, wait_for_frames

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

NOTHING_IS_KEPT = """
for (const name of ["localStorage", "sessionStorage"]) {
  Object.defineProperty(window, name, { get() { throw new DOMException("refused", "SecurityError"); } });
}
"""
NO_SOCKETS = """
window.WebSocket = class {
  static OPEN = 1;
  constructor() { this.readyState = 3; setTimeout(() => this.onclose({ code: 1006, reason: "" })); }
  close() {}
};
"""
SLOW_PICTURES = """
const decode = createImageBitmap;
window.createImageBitmap = async (jpeg) => {
  await new Promise((resolve) => setTimeout(resolve, 200));
  return decode(jpeg);
};
"""
NO_SUCH_CLIP = {"error": {"code": "unknown_video", "message": "no such video: it was removed"}}


def test_a_browser_that_keeps_nothing_plays(open_page):
    page = open_page(NOTHING_IS_KEPT)
    page.get_by_test_id("look-speed").fill("2")
    page.get_by_test_id("thin").dispatch_event("change")
    wait_for_frames(page, 4)


def test_frames_of_a_dropped_socket_do_not_say_that_it_plays_again(open_page):
    said = open_page(SLOW_PICTURES).evaluate(
        """async () => {
          const later = () => new Promise((resolve) => setTimeout(resolve, 1));
          const said = new Set();
          sockets.at(-1).close();
          while (!gamegen.reconnects) await later();
          for (; sockets.length === 1; await later()) said.add(gamegen.state);
          return [...said];
        }"""
    )
    assert said == ["reconnecting"]


def test_a_server_that_does_not_answer_at_a_reload_loses_no_world(page):
    session_id = page.evaluate("gamegen.sessionId")
    page.route(f"**/v1/sessions/{session_id}", lambda route: route.abort())
    page.reload()
    banner = page.get_by_test_id("banner")
    banner.wait_for()
    assert "does not answer" in banner.inner_text()
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    wait_for_frames(page, 1)
    assert page.evaluate("gamegen.sessionId") == session_id


def test_what_cannot_be_fetched_is_said(page):
    page.route("**/v1/gallery?*", lambda route: route.fulfill(status=200, body="<p>Sign in, please</p>"))
    page.get_by_test_id("gallery-more").click()
    page.wait_for_function("document.body.innerText.includes('to sign in anew')")
    page.route("**/openapi.json", lambda route: route.abort())
    page.get_by_role("link", name="API").click()
    page.get_by_text("openapi.json could not be read").wait_for()
    page.go_back()
    page.wait_for_function("window.gamegen?.sessionId")
    wait_for_frames(page, 1)


def test_a_clip_that_is_gone_is_not_asked_for_again(page):
    asked = []

    def refuse(route):
        asked.append(route.request.url)
        route.fulfill(status=404, json=NO_SUCH_CLIP)

    page.get_by_test_id("clips-open").click()
    page.route("**/v1/videos/*", refuse)
    page.route("**/v1/videos/*/stream", refuse)
    page.get_by_test_id("clip-frames").fill("4")
    page.get_by_test_id("clip-order").click()
    page.get_by_text("no such video").wait_for()
    page.wait_for_timeout(2500)  # It would have come back by now.
    assert len(asked) == 2


def test_a_proxy_that_passes_no_sockets_on_is_named(browser, address):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.add_init_script(NO_SOCKETS)
    page.goto(address)
    page.get_by_text("a proxy before the server has to pass them on").wait_for()
    page.evaluate("fetch(`/v1/sessions/${gamegen.sessionId}`, { method: 'DELETE' })")
    page.close()

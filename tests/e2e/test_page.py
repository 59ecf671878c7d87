"""The page in a real browser: headless Chromium plays a world."""

from __future__ import annotations

import numpy as np
import pytest

from tests.e2e.playing import CHROMIUM, flow_x, new_world, recorded, wait_for_frames

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def test_frames_advance_and_are_counted(page):
    wait_for_frames(page, 12)
    headers = [header for header, _ in recorded(page)]
    assert [h.sequence for h in headers] == sorted(h.sequence for h in headers)
    assert page.get_by_test_id("state").inner_text() == "playing"
    assert page.evaluate("gamegen.fps") > 0
    page.wait_for_function("document.getElementById('fps').textContent !== '–'")
    assert "ms" in page.get_by_test_id("step").inner_text()
    pixels = page.evaluate(
        "() => { const c = document.getElementById('screen');"
        " return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].slice(0, 40000); }"
    )
    assert np.std(np.reshape(pixels, (-1, 4))[:, :3]) > 0


def play_holding(page, key: str | None, seed: int, chunks: int) -> list[np.ndarray]:
    new_world(page, seed)
    if key:
        page.keyboard.down(key)
    page.wait_for_function("n => gamegen.lastChunk >= n && gamegen.state === 'playing'", arg=chunks)
    if key:
        page.keyboard.up(key)
    return [pixels for header, pixels in recorded(page) if header.chunk <= chunks]


def test_held_key_changes_the_motion(page):
    left, right = (play_holding(page, key, 7, 16) for key in ("ArrowLeft", "ArrowRight"))
    assert np.abs(left[-1].astype(float) - right[-1]).mean() > 0.5
    assert page.evaluate("gamegen.latencyMs") > 0
    assert "ms" in page.get_by_test_id("latency").inner_text()
    # Turning left moves the picture to the right, and the other way round.
    assert flow_x(left[len(left) // 2 :]) > flow_x(right[len(right) // 2 :])


def test_a_world_begins_from_the_recorded_moment_that_is_chosen(page):
    started = """async () => (await (await fetch(`/v1/sessions/${gamegen.sessionId}`)).json()).start"""
    assert page.evaluate(started)["kind"] == page.get_by_test_id("start").input_value() == "gallery"
    assert "Footage: Minetest" in page.get_by_test_id("gallery-credit").inner_text()
    moment = page.get_by_test_id("gallery").get_by_role("button").nth(3)
    moment.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelectorAll('.moment img')[3].naturalWidth > 0")
    moment.click()
    assert moment.get_attribute("aria-pressed") == "true"
    assert page.get_by_test_id("prompt").input_value() == moment.get_attribute("title")
    new_world(page, 8)
    wait_for_frames(page, 8)
    chosen = page.evaluate("async () => (await (await fetch('/v1/gallery')).json()).starts[3].id")
    assert page.evaluate(started)["id"] == chosen
    page.get_by_test_id("start").select_option("drawn")
    assert not page.get_by_test_id("gallery").is_visible()
    new_world(page, 8)
    assert page.evaluate(started)["kind"] == "drawn"


def test_on_screen_key_lights_up_and_is_sent(page):
    button = page.get_by_test_id("key-w")
    box = button.bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.down()
    assert button.get_attribute("aria-pressed") == "true"
    page.wait_for_function("gamegen.latencyMs !== null")
    page.mouse.up()
    assert button.get_attribute("aria-pressed") == "false"


def test_instruction_is_acknowledged(page):
    box = page.get_by_test_id("instruction")
    box.click()
    page.keyboard.type("make it snow and wade")
    # Letters typed into a box are words, not steps.
    assert page.locator(".key.held").count() == 0
    page.get_by_test_id("instruct").click()
    page.wait_for_function("gamegen.lastAck?.instruction === 'make it snow and wade'")
    assert "make it snow" in page.get_by_test_id("words").inner_text()
    page.get_by_role("button", name="let it rain").click()
    page.wait_for_function("gamegen.lastAck?.instruction === 'let it rain'")


def test_dropped_socket_reconnects_into_the_same_session(page):
    session_id = page.evaluate("gamegen.sessionId")
    chunk = page.evaluate("gamegen.lastChunk")
    page.evaluate("window.sockets.at(-1).close()")
    page.wait_for_function("gamegen.reconnects === 1 && gamegen.state === 'playing'")
    wait_for_frames(page, 8)
    assert page.evaluate("gamegen.sessionId") == session_id
    assert page.evaluate("gamegen.lastChunk") >= chunk
    assert page.evaluate("window.sockets.length") == 2


def test_reload_comes_back_to_the_same_world(page):
    session_id = page.evaluate("gamegen.sessionId")
    page.reload()
    wait_for_frames(page, 4)
    assert page.evaluate("gamegen.sessionId") == session_id


def test_wrong_input_shows_a_sentence(page):
    page.get_by_test_id("prompt").fill("very " * 400)
    page.get_by_test_id("new-world").click()
    banner = page.get_by_test_id("banner")
    banner.wait_for(state="visible")
    assert "the limit is 300" in banner.inner_text()
    # The world that ran before still runs.
    wait_for_frames(page, 4)
    page.get_by_test_id("prompt").fill("a desert")
    page.get_by_role("button", name="Try again").click()
    wait_for_frames(page, 4)
    banner.wait_for(state="hidden")


@pytest.mark.parametrize("width, height", [(1280, 800), (390, 844), (360, 740)])
def test_page_fits_the_window(page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for key in ("w", "space", "right"):
        box = page.get_by_test_id(f"key-{key}").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= height


def test_late_frames_are_shown_evenly(page):
    """Arrivals 0, 30, 10 ... ms late become even steps, a constant delay behind; a gap of the game stays one."""
    shown = page.evaluate(
        """async () => {
          const { Playout } = await import("/static/playout.js");
          const [playout, late, clock] = [new Playout(() => {}), [0, 30, 10, 25, 5], performance.now];
          const times = [];
          for (let i = 0; i < 60; i++) {
            const due = 1000 + 40 * i + (i >= 50 ? 400 : 0);
            performance.now = () => 5000 + due + late[i % 5];
            times.push(playout.timeOf({ dueMs: due, aheadMs: 0 }));
          }
          performance.now = clock;
          return { steps: times.slice(20).map((t, i) => t - times[19 + i]), delay: playout.delayMs };
        }"""
    )
    assert shown["delay"] == 30
    expected = [40.0] * 40
    expected[30] += 400
    assert shown["steps"] == expected

"""Mouse, gamepad and thumbs on the page, in a real browser, up to the server that draws what they do."""

from __future__ import annotations

import itertools
import re

import pytest

from tests.e2e.playing import (
    CHROMIUM,
    FAKE_GAMEPAD,
    Fingers,
    flow_x,
    new_world,
    recorded,
    sent,
    wait_for_frames,
    wait_for_sent,
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def assert_server_took_it(page) -> None:
    """A frame comes that was drawn under the newest control message, and no complaint."""
    newest = page.evaluate("window.sent.findLast(message => message.type === 'control').timestamp")
    wait_for_frames(page, 1)
    while not any((header.control_timestamp or 0) >= newest for header, _ in recorded(page)):
        wait_for_frames(page, 1)
    assert page.get_by_test_id("banner").is_hidden()


def take_the_mouse(page) -> None:
    page.get_by_test_id("screen").click(position={"x": 50, "y": 100})
    page.wait_for_function("document.pointerLockElement?.id === 'screen'")


def wait_for_hint(page, beginning: str) -> None:
    """The browser tells the page a moment after it has given the mouse, or taken it."""
    page.get_by_test_id("mouse-hint").filter(has_text=re.compile(f"^{beginning}")).wait_for()


def test_mouse_looks_around_from_a_click_until_escape(page):
    box = page.get_by_test_id("screen").bounding_box()
    left, top = box["x"] + 50, box["y"] + 100
    page.mouse.move(left + 200, top)
    take_the_mouse(page)
    assert sent(page, "turn") == []
    wait_for_hint(page, "Esc")
    # Until the page has drawn again the browser may still tell of movements before it had the mouse.
    wait_for_frames(page, 2)
    page.mouse.move(left + 200, top - 50, steps=40)
    wait_for_sent(page, "yaw === 24 && pitch === -6")
    # Movements are sent together, at most forty times a second.
    times = [message["timestamp"] for message in page.evaluate("window.sent") if "turn" in message]
    assert 1 < len(times) < 40
    assert min(b - a for a, b in itertools.pairwise(times)) > 20
    assert_server_took_it(page)
    page.keyboard.press("Escape")
    page.wait_for_function("document.pointerLockElement === null")
    wait_for_hint(page, "Click")
    turns = len(sent(page, "turn"))
    page.mouse.move(left, top, steps=5)
    wait_for_frames(page, 4)
    assert len(sent(page, "turn")) == turns


def test_look_speed_is_kept_and_scales_the_turn(page):
    page.get_by_test_id("look-speed").fill("2")
    page.reload()
    wait_for_frames(page, 1)
    assert page.get_by_label("Look speed").input_value() == "2"
    assert page.locator("#look-speed-value").inner_text() == "2.00×"
    take_the_mouse(page)
    box = page.get_by_test_id("screen").bounding_box()
    page.mouse.move(box["x"] + 150, box["y"] + 100)
    wait_for_sent(page, "yaw === 24 && pitch === 0")


def test_a_world_that_ends_gives_the_mouse_back(page):
    take_the_mouse(page)
    page.evaluate("fetch(`/v1/sessions/${gamegen.sessionId}`, { method: 'DELETE' })")
    page.wait_for_function("gamegen.state === 'ended' && document.pointerLockElement === null")


def test_gamepad_walks_looks_and_acts(page):
    page.evaluate(FAKE_GAMEPAD)
    assert "Gamepad connected" in page.get_by_test_id("gamepad").inner_text()
    page.evaluate("gamepad.axes = [0.1, -0.9, 1, 0]")
    wait_for_sent(page, "keys === 'w' && camera?.yaw_deg === 4.8 && camera.pitch_deg === 0")
    assert page.get_by_test_id("key-w").get_attribute("aria-pressed") == "true"
    assert_server_took_it(page)
    # What the keyboard lets go of, the gamepad still holds.
    page.keyboard.down("w")
    page.keyboard.up("w")
    page.evaluate("gamepad.axes = [0.7, -0.7, 0, -1]")
    wait_for_sent(page, "keys === 'dw' && camera.yaw_deg === 0 && camera.pitch_deg === -2.4")
    assert sent(page, "keyboard") == [{"keys": [key], "state": True} for key in "wd"]
    page.evaluate(
        "gamepad.axes = [0.2, 0.2, 0.1, 0]; for (const i of [0, 1, 7]) gamepad.buttons[i].pressed = true"
    )
    wait_for_sent(page, "keys === 'eqspace' && camera.yaw_deg === 0 && camera.pitch_deg === 0")
    page.evaluate("gamepad.connected = false")
    wait_for_sent(page, "keys === ''")
    assert "press one of its buttons" in page.get_by_test_id("gamepad").inner_text()


def test_gamepad_turns_the_world_to_the_side_of_its_stick(page):
    page.evaluate(FAKE_GAMEPAD)
    flows = []
    for push in (-0.8, 0.8):
        new_world(page, 7)
        page.evaluate("push => { gamepad.axes = [0, 0, push, 0]; }", push)
        page.wait_for_function("gamegen.lastChunk >= 16 && gamegen.state === 'playing'")
        frames = [pixels for header, pixels in recorded(page) if header.chunk <= 16]
        flows.append(flow_x(frames[len(frames) // 2 :]))
    # Turning left moves the picture to the right.
    assert flows[0] > flows[1]


def test_gamepad_goes_on_after_a_dropped_socket(page):
    page.evaluate(FAKE_GAMEPAD)
    page.evaluate("gamepad.axes = [0, -1, 1, 0]")
    wait_for_sent(page, "keys === 'w' && camera?.yaw_deg === 4.8")
    page.evaluate("window.sent = []; window.sockets.at(-1).close()")
    wait_for_sent(page, "keys === 'w' && camera?.yaw_deg === 4.8")
    page.wait_for_function("gamegen.reconnects === 1 && gamegen.state === 'playing'")


def test_left_thumb_walks_while_the_right_one_looks(phone):
    fingers = Fingers(phone)
    stick, area = (phone.get_by_test_id(name).bounding_box() for name in ("walk", "look-area"))
    middle_x, middle_y = stick["x"] + stick["width"] / 2, stick["y"] + stick["height"] / 2
    fingers.put(1, middle_x, middle_y - 50)
    wait_for_sent(phone, "keys === 'w'")
    assert phone.get_by_test_id("key-w").get_attribute("aria-pressed") == "true"
    right, down = area["x"] + area["width"] - 20, area["y"] + 40
    fingers.put(2, right, down)
    for x in (20, 40, 60):
        fingers.put(2, right - x, down + x / 2)
    wait_for_sent(phone, "keys === 'w' && yaw === -18 && pitch === 9")
    # A thumb may leave the stick: it still points somewhere.
    fingers.put(1, middle_x + 200, middle_y - 200)
    wait_for_sent(phone, "keys === 'dw'")
    fingers.lift(2)
    fingers.put(1, middle_x - 60, middle_y)
    wait_for_sent(phone, "keys === 'a'")
    assert_server_took_it(phone)
    fingers.put(1, middle_x, middle_y + 5)
    wait_for_sent(phone, "keys === ''")
    fingers.put(1, middle_x, middle_y + 40)
    wait_for_sent(phone, "keys === 's'")
    fingers.lift(1)
    wait_for_sent(phone, "keys === '' && yaw === -18 && pitch === 9")
    assert phone.locator(".key.held").count() == 0


def test_touched_buttons_act(phone):
    box = phone.get_by_test_id("key-space").bounding_box()
    fingers = Fingers(phone)
    fingers.put(1, box["x"] + 20, box["y"] + 20)
    wait_for_sent(phone, "keys === 'space'")
    fingers.lift(1)
    wait_for_sent(phone, "keys === ''")


@pytest.mark.parametrize("width, height", [(360, 740), (740, 360)])
def test_all_that_thumbs_need_is_on_a_phones_screen(open_page, width, height):
    phone = open_page(viewport={"width": width, "height": height}, has_touch=True, is_mobile=True)
    assert phone.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("walk", "look-area", "key-q", "key-space", "key-e"):
        box = phone.get_by_test_id(name).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert box["y"] >= 0 and box["y"] + box["height"] <= height
    look, walk = (phone.get_by_test_id(name).bounding_box() for name in ("look-area", "walk"))
    assert look["x"] >= width / 2 >= walk["x"] + walk["width"]

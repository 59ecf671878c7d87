"""Devices that never say that something went up, or never rest: all is let go of, and nothing moves by itself."""

from __future__ import annotations

import pytest

from tests.e2e.playing import CHROMIUM, FAKE_GAMEPAD, Fingers, sent, wait_for_sent

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

HIDE = """
Object.defineProperty(document, "hidden", { value: true, configurable: true });
document.dispatchEvent(new Event("visibilitychange"));
delete document.hidden;
"""
AWAY = {
    **{kind: f"dispatchEvent(new Event('{kind}'))" for kind in ("blur", "pagehide", "beforeprint")},
    "hidden": HIDE,
    "dragstart": "document.querySelector('.brand img').dispatchEvent(new Event('dragstart', { bubbles: true }))",
}
"""Scripts after which the page is told of no key any more, by the reason."""
LATER = """
async () => { for (let i = 0; i < 4; i++) await new Promise((resolve) => requestAnimationFrame(resolve)); }
"""
"""Some looks at the gamepads later."""
SINCE_HELLO = "sent = sent.slice(sent.findLastIndex(({ type }) => type === 'hello'))"


def key_event(page, kind: str, **fields) -> None:
    page.evaluate(
        "([kind, fields]) => { const options = { bubbles: true, cancelable: true, ...fields };"
        " document.body.dispatchEvent(new KeyboardEvent(kind, options)); }",
        [kind, fields],
    )


def gamepad(page, place: int = 0, **fields) -> None:
    """Puts a gamepad into a place of the browser's list; fields that are not given are those of one at rest."""
    page.evaluate(
        """([place, fields]) => {
          const button = () => ({ pressed: false, value: 0 });
          window.gamepads ??= [null, null];
          gamepads[place] = {
            id: `pad ${place}`, index: place, connected: true, mapping: "standard", axes: [0, 0, 0, 0],
            buttons: Array.from({ length: 17 }, button), ...fields,
          };
          navigator.getGamepads = () => gamepads;
          dispatchEvent(new Event("gamepadconnected"));
        }""",
        [place, fields],
    )


def test_keys_are_let_go_of_when_the_page_hears_no_more_of_them(page):
    for reason, script in AWAY.items():
        page.keyboard.down("w")
        wait_for_sent(page, "keys === 'w'")
        page.evaluate(script)
        assert page.locator(".key.held").count() == 0, reason
        # It is down still, and says so as long as it is the last one that was pressed.
        page.keyboard.down("w")
        assert page.get_by_test_id("key-w").get_attribute("aria-pressed") == "true", reason
        page.keyboard.up("w")
        wait_for_sent(page, "keys === ''")


def test_keys_are_let_go_of_when_something_else_takes_them(page):
    screen = page.get_by_test_id("screen")
    takes = [
        lambda: screen.click(button="right", position={"x": 40, "y": 90}),
        lambda: page.get_by_test_id("instruction").focus(),
        *[lambda name=name: page.keyboard.down(name) for name in ("Meta", "Control", "Alt")],
    ]
    for take in takes:
        screen.focus()
        page.keyboard.down("d")
        wait_for_sent(page, "keys === 'd'")
        take()
        wait_for_sent(page, "keys === ''")
        for name in ("Meta", "Control", "Alt", "d"):
            page.keyboard.up(name)
    # What a shortcut is made of is no step, nor are words that are composed.
    screen.focus()
    before = len(sent(page, "keyboard"))
    key_event(page, "keydown", code="KeyW", key="w", ctrlKey=True)
    key_event(page, "keydown", code="KeyW", key="Process", isComposing=True)
    page.evaluate("document.body.dispatchEvent(new Event('keydown', { bubbles: true }))")
    assert len(sent(page, "keyboard")) == before


def test_keys_are_known_by_their_place_or_else_by_their_letter(page):
    for code, name, key in [
        ("KeyW", "z", "w"),  # AZERTY
        ("KeyQ", "a", "q"),
        ("KeyE", "Dead", "e"),
        ("", "W", "w"),
        ("Unidentified", "ArrowLeft", "left"),
    ]:
        key_event(page, "keydown", code=code, key=name)
        wait_for_sent(page, f"keys === '{key}'")
        key_event(page, "keyup", code=code, key=name)
        wait_for_sent(page, "keys === ''")
    # A keyboard that names no places may say nothing more: one that does says when a key goes up.
    page.keyboard.down("d")
    key_event(page, "keydown", code="", key="a")
    wait_for_sent(page, "keys === 'ad'")
    wait_for_sent(page, "keys === 'd'")
    page.keyboard.up("d")


def test_a_pointer_lets_go_wherever_it_went_up(page):
    box = page.get_by_test_id("key-w").bounding_box()
    for end in [
        "document.dispatchEvent(new PointerEvent('pointermove', { pointerId: 1, buttons: 0 }))",
        "document.dispatchEvent(new PointerEvent('pointerup', { pointerId: 1 }))",
        "document.dispatchEvent(new PointerEvent('pointercancel', { pointerId: 1 }))",
        "document.querySelector('[data-key=w]').releasePointerCapture(1)",
    ]:
        page.mouse.move(box["x"] + 10, box["y"] + 10)
        page.mouse.down()
        page.mouse.move(box["x"] + 12, box["y"] + 10)
        wait_for_sent(page, "keys === 'w'")
        page.evaluate(end)
        # A capture that was taken away is told with the next movement.
        page.mouse.move(box["x"] + 400, box["y"] - 300)
        wait_for_sent(page, "keys === ''")
        page.mouse.up()
    before = len(sent(page, "keyboard"))
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.down(button="right")
    page.mouse.up(button="right")
    assert len(sent(page, "keyboard")) == before


def test_a_finger_that_is_lost_leaves_the_stick_to_the_next(phone):
    stick = phone.get_by_test_id("walk").bounding_box()
    x, y = stick["x"] + stick["width"] / 2, stick["y"] + stick["height"] / 2
    fingers = Fingers(phone)
    for lose in (lambda: phone.evaluate("dispatchEvent(new Event('blur'))"), fingers.cancel):
        fingers.put(1, x, y - 50)
        wait_for_sent(phone, "keys === 'w'")
        lose()
        wait_for_sent(phone, "keys === ''")
        # Between the buttons below the stick.
        fingers.put(2, x + 40, y - 40)
        wait_for_sent(phone, "keys === 'dw'")
        # One thumb walks: a second one on the stick holds what it touches for itself.
        fingers.put(3, x, y + 50)
        wait_for_sent(phone, "keys === 'dsw'")
        fingers.lift(3)
        wait_for_sent(phone, "keys === 'dw'")
        fingers.lift(2)
        wait_for_sent(phone, "keys === ''")
        fingers.lift_all()
    # What a long press opens elsewhere does not end a walk.
    fingers.put(1, x, y - 50)
    wait_for_sent(phone, "keys === 'w'")
    phone.get_by_test_id("walk").dispatch_event("contextmenu")
    assert phone.locator(".key.held").count() == 1
    fingers.lift(1)


def test_gamepads_of_unknown_layout_turn_nothing(page):
    # Firefox on Linux: axes 2 and 5 are triggers, whose end is their rest.
    axes = [0.02, -0.01, -1, 0, 0, -1, 0, 0]
    gamepad(page, mapping="", axes=axes)
    said = page.get_by_test_id("gamepad").inner_text()
    assert "does not know" in said and "right stick" not in said
    page.evaluate("gamepads[0].axes = [0, -1, 1, 1, 1, 1, 0, 0]; gamepads[0].buttons[7].pressed = true")
    wait_for_sent(page, "keys === 'w'")
    page.evaluate("gamepads[0].axes = [0.02, -0.01, -1, 0, 0, -1, 0, 0]")
    wait_for_sent(page, "keys === ''")
    assert sent(page, "camera") == []
    # A trigger or a wheel in the place of the stick, and a tilt sensor, which has no buttons.
    gamepad(page, 0, id="wheel", mapping="", axes=[-1, 0])
    gamepad(page, 1, mapping="", axes=[0, 0, 1], buttons=[])
    page.evaluate("gamepads[1].axes = [0.9, -0.9, 1]")
    page.evaluate(LATER)
    assert len(sent(page, "keyboard")) == 2 and sent(page, "camera") == []


def test_sticks_and_buttons_are_told_from_where_they_rest(page):
    held = [{"pressed": n == 7, "value": float(n == 7)} for n in range(17)]
    gamepad(page, axes=[0.25, 0.2, -0.3, 0.1], buttons=held)
    page.evaluate(LATER)
    assert sent(page, "camera") == [] and sent(page, "keyboard") == []
    page.evaluate("gamepads[0].axes = [0.25, 0.2, 1, 0.1]; gamepads[0].buttons[7].pressed = false")
    wait_for_sent(page, "camera?.yaw_deg === 4.8 && camera.pitch_deg === 0")
    # It comes to rest elsewhere than before.
    page.evaluate("gamepads[0].axes = [0.25, 0.2, 0.2, 0.1]")
    wait_for_sent(page, "keys === '' && camera.yaw_deg > 0 && camera.yaw_deg < 4.8")
    wait_for_sent(page, "camera.yaw_deg === 0")
    # Pushed when it is met, it counts from when it has been let go.
    gamepad(page, id="another", axes=[0, -1, 0, 1])
    page.evaluate(LATER)
    wait_for_sent(page, "keys === '' && camera.pitch_deg === 0")
    page.evaluate("gamepads[0].axes = [0, 0, 0, 0]")
    page.evaluate(LATER)
    page.evaluate("gamepads[0].axes = [0, -1, 0, 1]")
    wait_for_sent(page, "keys === 'w' && camera.pitch_deg === 2.4")
    page.evaluate("gamepads[0] = null")
    wait_for_sent(page, "keys === '' && camera.pitch_deg === 0")


def test_each_of_several_gamepads_lets_go_for_itself(page):
    gamepad(page, 0, axes=[0, 0, 0, 0])
    gamepad(page, 1, axes=[0, 0, 0, 0])
    page.evaluate("gamepads[0].axes = [0, -1, 0.4, 0]; gamepads[1].axes = [1, 0, -1, 0]")
    wait_for_sent(page, "keys === 'dw' && camera.yaw_deg === -4.8")
    page.evaluate("gamepads[1].connected = false")
    wait_for_sent(page, "keys === 'w' && camera.yaw_deg > 0")
    page.evaluate(
        "() => { navigator.getGamepads = () => { throw new DOMException('refused', 'SecurityError'); }; }"
    )
    wait_for_sent(page, "keys === '' && camera.yaw_deg === 0")
    assert "press one of its buttons" in page.get_by_test_id("gamepad").inner_text()


def test_what_is_held_when_a_socket_drops_is_held_by_the_next_one_unless_it_went_up(page):
    page.evaluate(FAKE_GAMEPAD)
    page.evaluate("gamepad.axes = [1, 0, 1, 0]")
    page.keyboard.down("w")
    wait_for_sent(page, "keys === 'dw' && camera.yaw_deg === 4.8")
    page.evaluate("sockets.at(-1).close(); gamepad.axes = [0, 0, 0, 0]")
    page.wait_for_function("gamegen.reconnects === 1 && gamegen.state === 'playing'")
    page.evaluate(SINCE_HELLO)
    wait_for_sent(page, "keys === 'w' && !camera?.yaw_deg")
    page.evaluate(
        """() => {
          sockets.at(-1).close();
          document.body.dispatchEvent(new KeyboardEvent("keyup", { bubbles: true, code: "KeyW", key: "w" }));
        }"""
    )
    page.wait_for_function("gamegen.reconnects === 2 && gamegen.state === 'playing'")
    page.evaluate(SINCE_HELLO)
    assert sent(page, "keyboard") == []

"""What the tests of the page share: what the page got and sent, and how they wait for it."""

from __future__ import annotations

import base64
import itertools
import shutil
from typing import Any

import cv2
import numpy as np
import simplejpeg
from playwright.sync_api import TimeoutError

from deployments.stream.wire import FrameHeader, unpack_frame
from tests.serving import PATIENCE_S

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_MS = 1000 * PATIENCE_S

RECORD_SOCKETS = """
window.sockets = [];
window.recorded = [];
window.sent = [];
window.WebSocket = class extends WebSocket {
  constructor(...parts) {
    super(...parts);
    window.sockets.push(this);
    this.addEventListener("message", ({ data }) => {
      if (typeof data === "string") return;
      window.recorded.push(btoa(String.fromCharCode(...new Uint8Array(data))));
      if (window.recorded.length > 256) window.recorded.shift();
    });
  }
  send(text) {
    window.sent.push(JSON.parse(text));
    super.send(text);
  }
};
"""


FAKE_GAMEPAD = """
window.gamepad = {
  connected: true, mapping: "standard", axes: [0, 0, 0, 0],
  buttons: Array.from({ length: 17 }, () => ({ pressed: false, value: 0 })),
};
navigator.getGamepads = () => [null, window.gamepad];
dispatchEvent(new Event("gamepadconnected"));
"""

DIAGNOSIS = """
async () => ({
  ...gamegen,
  text: document.body.innerText,
  visible: document.visibilityState,
  sent: sent.slice(-8),
  sockets: sockets.map(({ url, readyState, bufferedAmount }) => ({ url, readyState, bufferedAmount })),
  server: await (await fetch("/v1/status")).json(),
})
"""


def wait_for_frames(page, count: int) -> None:
    shown = page.evaluate("gamegen.framesShown")
    try:
        page.wait_for_function(
            "n => gamegen.framesShown >= n && gamegen.state === 'playing'", arg=shown + count
        )
    except TimeoutError as error:
        # What somebody who looks at the page would tell.
        seen = page.evaluate(DIAGNOSIS)
        raise AssertionError(f"{shown} frames were shown, {count} more wanted: {seen}") from error


def recorded(page) -> list[tuple[FrameHeader, np.ndarray]]:
    """The frames that the page got, oldest first."""
    messages = [unpack_frame(base64.b64decode(m)) for m in page.evaluate("window.recorded")]
    return [(header, simplejpeg.decode_jpeg(jpeg)) for header, jpeg in messages]


def new_world(page, seed: int) -> None:
    old = page.evaluate("gamegen.sessionId")
    page.get_by_test_id("seed").fill(str(seed))
    page.get_by_test_id("new-world").click()
    page.wait_for_function("id => gamegen.sessionId && gamegen.sessionId !== id", arg=old)
    page.evaluate("window.recorded = []")


def flow_x(frames: list[np.ndarray]) -> float:
    """Mean horizontal optical flow in pixels a frame."""
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return float(np.mean([flow.calc(a, b, None)[..., 0].mean() for a, b in itertools.pairwise(grey)]))


def sent(page, part: str) -> list[dict[str, Any]]:
    """That part of every control message so far that has it."""
    return [message[part] for message in page.evaluate("window.sent") if part in message]


def wait_for_sent(page, condition: str) -> None:
    """`condition` reads `keys` (held as the messages say), `camera` and the sums `yaw` and `pitch` of turns."""
    page.wait_for_function(
        """condition => {
          const [keys, turns] = [new Set(), [{ yaw_deg: 0, pitch_deg: 0 }]];
          let camera = null;
          for (const message of window.sent) {
            for (const key of message.keyboard?.keys ?? []) keys[message.keyboard.state ? "add" : "delete"](key);
            if (message.turn) turns.push(message.turn);
            camera = message.camera ?? camera;
          }
          const sum = (name) => Math.round(100 * turns.reduce((total, turn) => total + turn[name], 0)) / 100;
          const names = ["keys", "camera", "yaw", "pitch"];
          const held = [...keys].sort().join("");
          return new Function(...names, `return ${condition}`)(held, camera, sum("yaw_deg"), sum("pitch_deg"));
        }""",
        arg=condition,
    )


class Fingers:
    """Fingers on the page, each a place; the browser sees them as real touches."""

    def __init__(self, page) -> None:
        self._session = page.context.new_cdp_session(page)
        self._places: dict[int, tuple[float, float]] = {}

    def put(self, finger: int, x: float, y: float) -> None:
        kind = "touchMove" if finger in self._places else "touchStart"
        self._places[finger] = (x, y)
        self._dispatch(kind, self._places)

    def lift(self, finger: int) -> None:
        self._dispatch("touchEnd", {finger: self._places.pop(finger)})

    def cancel(self) -> None:
        """The browser takes the fingers for something of its own."""
        self._places.clear()
        self._dispatch("touchCancel", {})

    def lift_all(self) -> None:
        if self._places:
            self._dispatch("touchEnd", {})
            self._places.clear()

    def _dispatch(self, kind: str, places: dict[int, tuple[float, float]]) -> None:
        points = [{"id": finger, "x": x, "y": y} for finger, (x, y) in places.items()]
        self._session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

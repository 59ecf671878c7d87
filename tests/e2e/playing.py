"""What the tests of the page share: what the page got and sent, and how they wait for it."""

from __future__ import annotations

import base64
import itertools
import shutil

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

"""A browser's EventSource on a clip's stream, which comes back by itself."""

from __future__ import annotations

import pytest

from gamegen.service.database.retrying import DatabaseAwayError
from gamegen.service.orders.queue import VideoQueue
from tests.clip_server import ClipServer
from tests.e2e.playing import PATIENCE_MS

FOLLOW = """
(order) => new Promise(async (resolve) => {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch("/v1/videos", { method: "POST", headers, body: JSON.stringify(order) });
  const { id } = await answer.json();
  const seen = [];
  let opened = 0;
  const stream = new EventSource(`/v1/videos/${id}/stream`);
  stream.onopen = () => opened++;
  for (const name of ["phase_change", "progress", "completed", "error"]) {
    stream.addEventListener(name, (event) => {
      if (!event.data) return;
      const video = JSON.parse(event.data);
      seen.push([name, Number(event.lastEventId), video.state]);
      if (name === "completed") {
        stream.close();
        resolve({ opened, seen });
      }
    });
  }
})
"""


@pytest.fixture
def page(browser, clip_server: ClipServer):
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{clip_server.url}/openapi.json")
    yield page
    context.close()


def test_a_browser_misses_nothing_when_its_stream_breaks(page, clip_server, monkeypatch):
    events_after, calls = VideoQueue.events_after, []

    async def away_once(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise DatabaseAwayError("away for the test")
        if len(calls) == 3:
            # It is drawn to its end once the browser is back.
            clip_server.worker.let_go.set()
        return await events_after(*arguments, **options)

    monkeypatch.setattr(VideoQueue, "events_after", away_once)
    followed = page.evaluate(FOLLOW, {"prompt": "wait in a browser", "num_frames": 4})
    clip_server.worker.let_go.clear()
    assert followed["opened"] == 2
    ids = [event_id for _, event_id, _ in followed["seen"]]
    assert ids == sorted(set(ids))
    phases = [state for name, _, state in followed["seen"] if name == "phase_change"]
    assert phases[0] == "PENDING"
    assert phases[-1] == "UPLOADING"
    assert len(phases) == 9
    assert followed["seen"][-1][::2] == ["completed", "COMPLETED"]

"""Metrics that a running application exports; the dashboard and the manual name all of them."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import websockets

from tests.serving import PATIENCE_S, streaming

REPOSITORY = Path(__file__).parents[3]
DASHBOARD = REPOSITORY / "cluster" / "dashboards" / "gamegen.json"
MANUAL = REPOSITORY / "docs" / "operations.md"
SAMPLE = re.compile(r"(ray_gamegen_\w+)(?:\{(.*)\})? (\S+)")


def exported() -> str:
    """Metrics of this node in the format of Prometheus."""
    port = ray.nodes()[0]["MetricsExportPort"]
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()


def total(text: str, name: str, tag: str = "") -> float:
    """Sum of a metric's samples, or of those with a tag of this value."""
    found = [m for m in map(SAMPLE.fullmatch, text.splitlines()) if m and m[1] == f"ray_gamegen_{name}"]
    return sum(float(m[3]) for m in found if f'="{tag}"' in m[2] or not tag)


RISES = {
    ("sessions_begun_total", ""): 1,
    ("sessions_ended_total", "bye"): 1,
    ("streams_ended_total", "left"): 1,
    ("recoveries_total", "resumed"): 1,
    ("messages_refused_total", "invalid_message"): 1,
    ("requests_refused_total", "unknown_session"): 1,
    ("chunks_shown_total", ""): 5,
    ("chunks_drawn_total", ""): 5,
    ("frames_sent_total", ""): 20,
    ("frame_bytes_total", ""): 20 * 500,
    ("frame_gap_seconds_count", ""): 5,
    ("step_seconds_count", ""): 5,
    ("step_sessions_count", ""): 5,
    ("store_commit_seconds_count", ""): 5,
    ("control_latency_seconds_count", ""): 1,
    ("control_stage_seconds_count", "wait"): 1,
    ("control_stage_seconds_count", "step"): 1,
    ("control_stage_seconds_count", "decode"): 1,
    ("control_stage_seconds_count", "send"): 1,
    ("clips_ordered_total", "realtime"): 1,
    ("clips_refused_total", "prompt_too_long"): 1,
    ("clips_ended_total", "COMPLETED"): 1,
    ("clip_seconds_count", "realtime"): 1,
    ("clip_wait_seconds_count", "realtime"): 1,
    ("clip_stage_seconds_count", "draw"): 1,
    ("clip_stage_seconds_count", "decode"): 1,
    ("clip_stage_seconds_count", "check"): 1,
    ("clip_stage_seconds_count", "write"): 1,
    ("clip_stage_seconds_count", "store"): 1,
    ("clip_step_seconds_count", ""): 24,
    ("clip_step_clips_count", ""): 24,
    ("clip_steps_total", ""): 24,
    ("clip_checkpoints_total", ""): 1,
}
"""By how much at least each metric, for a value of its tag, rises by what the fixture below plays and orders."""
LEVELS = {
    "sessions_playing": 0,
    "sessions_queued": 0,
    "chunks_held_back": 0,
    "slots": 3,
    "places": 3,
    "clips_waiting": 0,
    "clips_leased": 0,
    "clips_held": 0,
}


def order_clip(client: httpx.Client) -> None:
    """Orders a clip of two chunks, twelve steps each, waits for it, and orders one that is refused."""
    order = {"prompt": "told of", "num_frames": 8, "num_steps": 12, "tier": "realtime"}
    video = client.post("/v1/videos", json=order).json()
    with client.stream("GET", f"/v1/videos/{video['id']}/stream") as stream:
        lines = list(stream.iter_lines())
    assert "event: completed" in lines, lines[-4:]
    assert client.post("/v1/videos", json={"prompt": "very " * 390}).status_code == 422


@pytest.fixture
async def text(address, begin, client) -> str:
    """Metrics after a world was played, with a key, a wrong message and a second socket, and a clip was made."""
    before = exported()
    order_clip(client)
    session = begin()
    async with streaming(address, session) as player:
        await player.frames(8)
        await player.control(5.0, keyboard={"keys": ["w"], "state": True})
        await player.send({"type": "nonsense"})
        while (await player.frame()).header.control_timestamp != 5.0:
            pass
        await player.frames(12)
    async with streaming(address, session) as player:
        await player.frames(8)
        await player.send({"type": "bye"})
        with pytest.raises(websockets.ConnectionClosed):
            while True:
                await player.socket.recv()
    assert client.get("/v1/sessions/none").status_code == 404
    # Each replica reports every ten seconds; the gauges of one that other tests killed are shown for twenty.
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        text = exported()
        missing: list[object] = [
            (name, tag, rise)
            for (name, tag), rise in RISES.items()
            if total(text, name, tag) - total(before, name, tag) < rise
        ]
        missing += [(name, level) for name, level in LEVELS.items() if total(text, name) != level]
        if not missing:
            return text
        assert time.monotonic() < give_up_at, missing
        await asyncio.sleep(0.5)


def metric_names(expressions: str) -> set[str]:
    return set(re.findall(r"ray_gamegen_\w+", expressions))


def family(name: str) -> str:
    return re.sub(r"_(bucket|count|sum)$", "", name)


def expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel.get("targets", [])]


async def test_a_played_world_is_exported_and_the_dashboard_and_the_manual_name_what_there_is(text):
    assert 'deployment="Ingress"' in text and 'deployment="World"' in text and 'application="gamegen"' in text
    # Training of other tests may be shown as well.
    found = {m[1] for m in map(SAMPLE.fullmatch, text.splitlines()) if m and "_training_" not in m[1]}
    shown = metric_names(DASHBOARD.read_text())
    assert shown <= found, "the dashboard names metrics that are not exported"
    families = {family(name) for name in found}
    assert {family(name) for name in shown} == families, "metrics that the dashboard does not show"
    described = set(re.findall(r"^\| `(gamegen_\w+)`", MANUAL.read_text(), re.MULTILINE))
    assert {f"ray_{name}" for name in described} == families, "the table of docs/operations.md"


def test_the_dashboard_is_one_that_grafana_reads():
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["schemaVersion"] >= 38 and dashboard["uid"] and dashboard["title"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["description"] and panel["datasource"]["uid"] == "${datasource}", panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert references and len(set(references)) == len(references)
        for expression in expressions(panel):
            assert metric_names(expression), expression
            assert expression.count("(") == expression.count(")"), expression


def test_histograms_are_asked_for_quantiles_and_counts_only():
    """Ray makes a histogram's sum up from its buckets, so a mean over it would be wrong."""
    assert not re.search(r"ray_gamegen_\w+_sum\b", DASHBOARD.read_text())

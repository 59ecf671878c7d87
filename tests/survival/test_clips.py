"""No order is lost or drawn twice, whatever is killed; what is drawn again is little, and comes out the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.chaos.history import OrderEvent, read
from cluster.chaos.local_application import (
    Kind,
    LocalApplication,
    chaos_settings,
    own_stores,
    wait_until_ready,
)
from cluster.chaos.order_requests import new_requests
from cluster.chaos.run import RunConfig, run
from cluster.chaos.undisturbed import undisturbed
from deployments.settings import ServeSettings
from gamegen.service.orders.states import State
from tests.service.orders.orders import tiny_order
from tests.serving import Application
from tests.workshop import Workshop, digest, running
from tests.workshop import undisturbed as drawn_alone

CHECKPOINT_EVERY = 8


@pytest.fixture(scope="module")
def settings(tiny_model: Path) -> ServeSettings:
    return chaos_settings(str(tiny_model))


@pytest.fixture(scope="module")
def scene(application: Application, settings: ServeSettings) -> Iterator[LocalApplication]:
    """The application of the tests' cluster, with a database of its own that may be killed."""
    with own_stores() as (stores, database):
        address = application.serve(settings, stores)
        wait_until_ready(address)
        yield LocalApplication(address, stores, database)
        application.stop()


@pytest.mark.cluster
def test_every_order_ends_once_whatever_is_killed(scene: LocalApplication, settings: ServeSettings) -> None:
    """Each kind of part is killed once; every clip is the same to the last bit as if nothing had been."""
    jobs = new_requests(16, num_frames=8, num_steps=6)
    expected = dict(undisturbed(settings, jobs))
    most_repeated = settings.generator.work.checkpoint_every_steps
    outcome = run(
        scene,
        jobs,
        expected,
        RunConfig(clients=4, kinds=[*Kind], kills=1, seed=3, most_repeated=most_repeated, timeout_s=300),
    )
    assert not outcome.verdict.faults
    assert (outcome.verdict.completed, outcome.verdict.same) == (16, 16)
    assert {kill.kind for kill in outcome.kills} == {*Kind}


async def test_a_worker_that_is_killed_at_step_30_of_50_costs_less_than_a_checkpoint(
    workshop: Workshop, database_url: str, tmp_path: Path
) -> None:
    order = tiny_order(num_frames=8, num_steps=25)
    (video,) = await workshop.queued(order)
    command = [sys.executable, "-m", "tests.survival.doomed", database_url, str(tmp_path / "store"), "30"]
    environment = {**os.environ, "DOOMED_EVERY": str(CHECKPOINT_EVERY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = await workshop.queue.get(video, None)
    assert (left.state, left.step) == (State.GENERATING, 30)

    async with running(workshop.housekeeping().run()), running(workshop.worker("second").run()):
        ended = await workshop.ended(video)
    assert ended.state is State.COMPLETED and ended.attempts == 2
    assert ended.result and ended.result.frames_sha256 == digest(drawn_alone(order))
    history = read([OrderEvent.of(event) for event in await workshop.queue.events_after(video)])
    assert not history.faults and history.ends == [State.COMPLETED]
    # It was killed at step 30, and step 24 is kept.
    assert history.repeated == [6] and CHECKPOINT_EVERY >= 6


def entries(*lines: tuple[str, State, int] | tuple[str, State, int, int]) -> list[OrderEvent]:
    return [OrderEvent(*line) for line in lines]


CLAIMED = [
    ("state", State.PENDING, 0),
    ("state", State.ENCODING, 1),
    ("state", State.QUEUED, 1),
    ("state", State.ASSIGNED, 2),
    ("progress", State.GENERATING, 2, 7),
]


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ([("state", State.ASSIGNED, 3)], "claimed by 3 while 2 had it"),
        ([("state", State.QUEUED, 2), ("progress", State.GENERATING, 2, 8)], "by 2 while None had it"),
        ([("state", State.COMPLETED, 1)], "COMPLETED by 1 while 2 had it"),
        ([("state", State.COMPLETED, 2), ("state", State.COMPLETED, 2)], "COMPLETED after its end"),
        ([("state", State.QUEUED, 2), ("state", State.ASSIGNED, 2)], "claimed by 2 while None had it"),
    ],
)
def test_what_must_not_be_is_seen_in_the_events(more: list, fault: str) -> None:
    (said,) = read(entries(*CLAIMED, *more)).faults[:1]
    assert fault in said


def test_what_is_repeated_is_counted_for_each_interruption() -> None:
    history = read(
        entries(
            *CLAIMED,
            ("checkpoint", State.GENERATING, 2, 8),
            ("progress", State.GENERATING, 2, 11),
            ("state", State.QUEUED, 2),
            ("state", State.ASSIGNED, 3),
            ("progress", State.GENERATING, 3, 9),
            ("state", State.QUEUED, 3),
            ("state", State.ASSIGNED, 4),
            ("state", State.COMPLETED, 4),
        )
    )
    assert history.repeated == [3, 1] and not history.faults and history.ends == [State.COMPLETED]

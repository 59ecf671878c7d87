"""How many players a world replica takes, with a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from deployments import admission
from deployments.admission import Lateness, OfferedPlaces
from deployments.scaling import replicas_for, world_policy
from tests.stopped_clock import StoppedClock

CHUNK_S = 1 / 6


class Replica:
    """Players of one world replica, of whom those in `late` get their chunks late, and what it offers."""

    def __init__(self, clock: StoppedClock, slots: int, most_late_share: float = 0.05) -> None:
        self.clock = clock
        self.lateness = Lateness()
        self.places = OfferedPlaces(slots, most_late_share)
        self.players: list[str] = []

    def play(self, seconds: float, is_late: Callable[[str], bool] = lambda _: False) -> int:
        """Reviews once a second; returns what is offered at the end."""
        for chunk in range(round(seconds / CHUNK_S)):
            self.clock.now += CHUNK_S
            self.lateness.tell({player: is_late(player) for player in self.players})
            if chunk % 6 == 5:
                self.places.review(self.lateness, len(self.players))
        return self.places.offered

    def join(self, number: int) -> None:
        self.players += [f"{i} at {self.clock.now}" for i in range(number)]


def everybody(_player: str) -> bool:
    return True


@pytest.fixture
def clock(monkeypatch) -> StoppedClock:
    clock = StoppedClock()
    monkeypatch.setattr(admission, "time", clock)
    return clock


@pytest.fixture
def replica(clock) -> Replica:
    return Replica(clock, slots=8)


def test_all_slots_are_offered_as_long_as_chunks_come_in_time(replica):
    assert replica.places.offered == 8
    replica.join(8)
    assert replica.play(600) == replica.places.carried == 8


def test_a_late_crowd_shuts_the_door_and_leaving_does_not_open_it(replica):
    replica.join(6)
    assert replica.play(10) == 8
    assert replica.play(2, everybody) == 5
    # While it lasts fewer and fewer are wanted, but never fewer than half of those who are there.
    assert replica.play(4, everybody) == 4
    assert replica.play(60, everybody) == 3
    replica.players = replica.players[:4]
    assert replica.play(10, everybody) == 2
    assert replica.places.carried == 2


def test_the_door_opens_one_by_one_once_chunks_come_in_time_for_a_while(replica):
    replica.join(6)
    replica.play(10)
    assert replica.play(1, everybody) == 5
    # Those who are there are in time: so many it carries, and perhaps one more.
    assert replica.play(2) == 5
    assert replica.play(2) == 7
    # Nobody came, so nothing is known of eight.
    assert replica.play(60) == 7
    replica.join(1)
    assert replica.play(4) == 8
    assert replica.play(300) == 8


def test_a_limit_is_remembered_for_minutes_and_forgotten_at_last(replica):
    replica.join(6)
    replica.play(10)
    assert replica.play(8, everybody) == 3
    replica.players = replica.players[:2]
    assert replica.play(250) == 3
    assert replica.play(60) == 4
    assert replica.play(1500) == replica.places.carried == 8


def test_neither_late_nor_well_in_time_changes_nothing(clock):
    replica = Replica(clock, slots=8, most_late_share=0.4)
    replica.join(4)
    replica.play(10, everybody)
    assert replica.places.offered == 2
    replica.players = replica.players[:2]
    numbers = iter(range(10**6))
    # One of the two is late every third chunk.
    assert replica.play(60, lambda player: next(numbers) % 3 == 0) == 2


def test_the_first_seconds_of_worlds_and_of_a_recovery_do_not_count(replica):
    replica.join(4)
    assert replica.play(2.5, everybody) == 8
    replica.play(10)
    replica.lateness.recovering()
    assert replica.play(5.5, everybody) == 8
    # Who is brought back all the time does not hide that chunks are late.
    for _ in range(4):
        replica.lateness.recovering()
        replica.play(1, everybody)
    assert replica.places.offered < 4


def test_one_slow_line_does_not_shut_the_door_to_others(replica):
    replica.join(4)
    slow = replica.players[0]
    assert replica.play(30, lambda player: player == slow) == 8
    assert replica.play(30, lambda player: player in replica.players[:2]) < 4


def test_a_world_that_is_too_slow_for_one_takes_one(replica):
    replica.join(1)
    assert replica.play(60, everybody) == 1
    replica.players = []
    assert replica.play(60) == 1
    replica.join(1)
    assert replica.play(5) == 2


def test_who_has_left_does_not_shut_it(replica):
    replica.join(8)
    replica.play(5)
    replica.play(0.5, everybody)
    replica.players = []
    assert replica.play(30) == 8


def test_many_slots_are_offered_little_by_little_until_it_is_known_how_many_can_play(clock):
    replica = Replica(clock, slots=100)
    assert replica.places.offered == 8 and replica.places.carried == 100
    offers = []
    for _ in range(3):
        replica.join(replica.places.offered - len(replica.players))
        offers.append(replica.play(4))
    assert offers == [16, 32, 64]
    replica.join(8)
    assert replica.play(2) == 64
    # More than it can: those who play are more than are wanted now, and then it goes on step by step.
    assert replica.play(1, everybody) == replica.places.carried == 36
    replica.players = replica.players[:36]
    replica.play(2)
    assert replica.play(3) == 38


def test_players_of_a_lost_replica_are_carried_if_they_can_be(clock):
    replica = Replica(clock, slots=100)
    replica.join(40)
    assert replica.play(4) == 80


def test_a_share_of_one_offers_all_slots_whatever_happens(clock):
    replica = Replica(clock, slots=100, most_late_share=1)
    replica.join(100)
    assert replica.play(60, everybody) == replica.places.carried == 100


@pytest.mark.parametrize(
    "active, queued, late, current, carried, wanted",
    [
        (0, 0, 0, 1, 8, 1),
        (6, 0, 0, 1, 8, 1),
        (7, 0, 0, 1, 8, 2),
        (6, 0, 0.03, 1, 8, 2),
        # Shut by lateness, and since then in time: without what it carries the one who waits would wait for ever.
        (4, 1, 0, 1, 4, 2),
        (4, 1, 0, 2, 6, 1),
        (1, 1, 0, 1, 1, 2),
        (3, 0, 0, 3, 1, 3),
    ],
)
def test_replicas_are_added_for_those_who_wait_at_a_door_that_lateness_shut(
    active, queued, late, current, carried, wanted
):
    assert replicas_for(active, queued, late, current, carried) == wanted


def test_the_policy_reads_what_replicas_report():
    reported = {
        "active": {"a": 4.0, "b": 3.0},
        "queued": {"a": 2.0, "b": 2.0},
        "late": {"a": 0.0, "b": 0.0},
        "carried": {"a": 3.0, "b": 5.0},
    }
    context = SimpleNamespace(aggregated_metrics=reported, current_num_replicas=2, target_num_replicas=2)
    assert world_policy(context) == (3, {})
    context.aggregated_metrics = {}
    assert world_policy(context) == (2, {})

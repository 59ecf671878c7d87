"""Capacity of a world replica, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deployments.replicas import capacity
from deployments.replicas.capacity import CapacityLimiter, LatenessTracker
from tests.stopped_clock import StoppedClock

CHUNK_S = 1 / 6


class Replica:
    """A world replica's players, lateness and capacity."""

    def __init__(self, clock: StoppedClock, slots: int, most_late_share: float = 0.05) -> None:
        self.clock = clock
        self.lateness = LatenessTracker()
        self.limiter = CapacityLimiter(slots, most_late_share)
        self.players: list[str] = []

    def play(self, seconds: float, is_late: Callable[[str], bool] = lambda _: False) -> int:
        """Plays for a while, with a review every second; returns the capacity that is offered at the end."""
        for chunk in range(round(seconds / CHUNK_S)):
            self.clock.now += CHUNK_S
            self.lateness.report({player: is_late(player) for player in self.players})
            if chunk % 6 == 5:
                self.limiter.review(self.lateness, len(self.players))
        return self.limiter.offered

    def join(self, number: int) -> None:
        self.players += [f"{i} at {self.clock.now}" for i in range(number)]


def everybody(_player: str) -> bool:
    return True


@pytest.fixture
def clock(monkeypatch) -> StoppedClock:
    clock = StoppedClock()
    monkeypatch.setattr(capacity, "time", clock)
    return clock


@pytest.fixture
def replica(clock) -> Replica:
    return Replica(clock, slots=8)


def test_all_slots_are_offered_as_long_as_chunks_come_in_time(replica):
    assert replica.limiter.offered == 8
    replica.join(8)
    assert replica.play(600) == replica.limiter.carried == 8


def test_late_chunks_lower_the_capacity_and_leaving_players_do_not_raise_it(replica):
    replica.join(6)
    assert replica.play(10) == 8
    assert replica.play(2, everybody) == 5
    # While it lasts the capacity falls further, but never below half of the players.
    assert replica.play(4, everybody) == 4
    assert replica.play(60, everybody) == 3
    replica.players = replica.players[:4]
    assert replica.play(10, everybody) == 2
    assert replica.limiter.carried == 2


def test_capacity_rises_one_by_one_once_chunks_are_in_time_for_a_while(replica):
    replica.join(6)
    replica.play(10)
    assert replica.play(1, everybody) == 5
    # All players are in time: the replica carries them, and perhaps one more.
    assert replica.play(2) == 5
    assert replica.play(2) == 7
    # No player joined, so eight have not been measured.
    assert replica.play(60) == 7
    replica.join(1)
    assert replica.play(4) == 8
    assert replica.play(300) == 8


def test_a_limit_is_kept_for_minutes_and_probed_at_last(replica):
    replica.join(6)
    replica.play(10)
    assert replica.play(8, everybody) == 3
    replica.players = replica.players[:2]
    assert replica.play(250) == 3
    assert replica.play(60) == 4
    assert replica.play(1500) == replica.limiter.carried == 8


def test_a_share_between_half_the_limit_and_the_limit_changes_nothing(clock):
    replica = Replica(clock, slots=8, most_late_share=0.4)
    replica.join(4)
    replica.play(10, everybody)
    assert replica.limiter.offered == 2
    replica.players = replica.players[:2]
    numbers = iter(range(10**6))
    # One of the two is late every third chunk.
    assert replica.play(60, lambda player: next(numbers) % 3 == 0) == 2


def test_the_first_seconds_of_worlds_and_of_a_recovery_do_not_count(replica):
    replica.join(4)
    assert replica.play(2.5, everybody) == 8
    replica.play(10)
    replica.lateness.note_recovery()
    assert replica.play(5.5, everybody) == 8
    # Constant recoveries do not hide late chunks.
    for _ in range(4):
        replica.lateness.note_recovery()
        replica.play(1, everybody)
    assert replica.limiter.offered < 4


def test_one_slow_connection_does_not_lower_the_capacity(replica):
    replica.join(4)
    slow = replica.players[0]
    assert replica.play(30, lambda player: player == slow) == 8
    assert replica.play(30, lambda player: player in replica.players[:2]) < 4


def test_a_replica_that_is_too_slow_for_one_player_takes_one(replica):
    replica.join(1)
    assert replica.play(60, everybody) == 1
    replica.players = []
    assert replica.play(60) == 1
    replica.join(1)
    assert replica.play(5) == 2


def test_players_who_have_left_do_not_lower_the_capacity(replica):
    replica.join(8)
    replica.play(5)
    replica.play(0.5, everybody)
    replica.players = []
    assert replica.play(30) == 8


def test_many_slots_are_offered_step_by_step_until_the_limit_is_found(clock):
    replica = Replica(clock, slots=100)
    assert replica.limiter.offered == 8 and replica.limiter.carried == 100
    offers = []
    for _ in range(3):
        replica.join(replica.limiter.offered - len(replica.players))
        offers.append(replica.play(4))
    assert offers == [16, 32, 64]
    replica.join(8)
    assert replica.play(2) == 64
    # Beyond its limit: there are more players than the capacity now, which then rises step by step.
    assert replica.play(1, everybody) == replica.limiter.carried == 36
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
    assert replica.play(60, everybody) == replica.limiter.carried == 100

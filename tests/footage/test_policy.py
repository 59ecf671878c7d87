"""The scripted player covers every operation and never stays stuck."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from gamegen.footage.policy import DEFAULT_MOVEMENTS, ExplorerPolicy, Operation, PolicyConfig
from gamegen.footage.recorder import Truth

NUM_FRAMES = 60_000


def truth_at(x: float, z: float, tilt: float = 7.2, hazard: bool = False) -> Truth:
    return Truth("grassland", "clear", "day", "first", (x, 0.0, z), 0.0, tilt, hazard)


def play_freely(num_frames: int) -> tuple[list[Operation], list[float]]:
    """Operations and tilts on an endless plain where every walking key moves the player."""
    policy = ExplorerPolicy(PolicyConfig(), seed=3)
    x, tilt = 0.0, 7.2
    operations, tilts = [], []
    for _ in range(num_frames):
        operation = policy.act(truth_at(x, 0.0, tilt))
        x += 0.17 * bool(operation.keys & {"w", "a", "s", "d"})
        tilt += operation.pitch_deg
        operations.append(operation)
        tilts.append(tilt)
    return operations, tilts


@pytest.fixture(scope="module")
def played() -> tuple[list[Operation], list[float]]:
    return play_freely(NUM_FRAMES)


def share(operations: list[Operation], wanted) -> float:
    return sum(bool(wanted(operation)) for operation in operations) / len(operations)


def test_every_operation_gets_its_share_of_the_time(played) -> None:
    operations, _ = played
    assert 0.28 < share(operations, lambda o: "w" in o.keys and not o.yaw_deg) < 0.42
    assert 0.15 < share(operations, lambda o: not o.keys and o.yaw_deg) < 0.25
    assert 0.14 < share(operations, lambda o: "w" in o.keys and o.yaw_deg) < 0.24
    assert 0.08 < share(operations, lambda o: not o.keys and not o.yaw_deg) < 0.16
    for key in ("s", "a", "d", "space", "e", "q"):
        assert share(operations, lambda o, key=key: key in o.keys) > 0.015, key


def test_left_and_right_are_balanced(played) -> None:
    operations, _ = played
    turns = Counter(round(operation.yaw_deg, 1) for operation in operations)
    assert set(turns) == {-2.4, -1.2, 0.0, 1.2, 2.4}
    for speed in (1.2, 2.4):
        assert turns[speed] == pytest.approx(turns[-speed], rel=0.1)
    left, right = (share(operations, lambda o, key=key: key in o.keys) for key in "ad")
    assert left == pytest.approx(right, rel=0.15)


def test_every_movement_with_a_side_has_its_mirror_image() -> None:
    mirrored = {"a": "d", "d": "a"}
    shares = Counter()
    for part, operation in DEFAULT_MOVEMENTS:
        shares[operation] += part
    for operation, part in shares.items():
        keys = frozenset(mirrored.get(key, key) for key in operation.keys)
        assert shares[Operation(keys, -operation.yaw_deg)] == pytest.approx(part)


def test_the_view_always_returns_to_level(played) -> None:
    _, tilts = played
    assert -1.0 < min(tilts) < 4.0
    assert 11.0 < max(tilts) < 16.0
    level = sum(abs(tilt - 7.2) < 0.7 for tilt in tilts)
    assert level / len(tilts) > 0.6


def test_a_player_at_a_wall_turns_or_jumps_within_a_second() -> None:
    policy = ExplorerPolicy(PolicyConfig(), seed=5)
    pushing, longest = 0, 0
    for _ in range(5000):
        operation = policy.act(truth_at(0.0, 0.0))
        straight = (
            operation.keys & {"w", "a", "s", "d"} and not operation.yaw_deg and "space" not in operation.keys
        )
        pushing = pushing + 1 if straight else 0
        longest = max(longest, pushing)
    # A segment of 20 frames walks on after the turn, before the next look at what blocks the way.
    assert longest <= PolicyConfig().stuck_frames + 20


def test_a_player_at_the_water_turns_away_at_once() -> None:
    policy = ExplorerPolicy(PolicyConfig(movements=((1.0, Operation(frozenset("w"))),)), seed=1)
    x = 0.0
    for _ in range(10):
        policy.act(truth_at(x := x + 0.2, 0.0))
    operation = policy.act(truth_at(x, 0.0, hazard=True))
    assert not operation.keys
    assert math.isclose(abs(operation.yaw_deg), 2.4)

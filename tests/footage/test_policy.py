"""The scripted player covers every operation, plays each maneuver for its share and never stays stuck."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass

import pytest

from gamegen.controls import MAX_CAMERA_DEG
from gamegen.footage.maneuvers import Operation
from gamegen.footage.policy import (
    DEFAULT_MANEUVERS,
    DEFAULT_MOVEMENTS,
    ESCAPE,
    LEDGE,
    MOVEMENT,
    PUSH,
    ExplorerPolicy,
    PolicyConfig,
)
from gamegen.footage.recorder import CAMERA_STEP_DEG, TiltRange, Truth

NUM_FRAMES = 60_000
WALK = frozenset("wasd")
ONLY_MOVEMENTS = PolicyConfig(maneuvers=())


@dataclass(frozen=True)
class Played:
    """What was played, frame by frame."""

    operations: list[Operation]
    activities: list[str]
    tilts: list[float]

    def of(self, *activities: str) -> list[Operation]:
        """The operations of some activities."""
        pairs = zip(self.operations, self.activities, strict=True)
        return [operation for operation, activity in pairs if activity in activities]

    def stretches(self, activity: str) -> list[list[Operation]]:
        """The operations of an activity, a list for each time that it was played between two others."""
        found: list[list[Operation]] = []
        before = ""
        for operation, now in zip(self.operations, self.activities, strict=True):
            if now == activity:
                if before != activity:
                    found.append([])
                found[-1].append(operation)
            before = now
        return found[:-1]


def truth_at(x: float, z: float, tilt: float = 7.2, hazard: bool = False, height: float = 0.0) -> Truth:
    return Truth("grassland", "clear", "day", "first", (x, height, z), 0.0, tilt, hazard)


def play_freely(num_frames: int, config: PolicyConfig | None = None, seed: int = 3) -> Played:
    """Play on an endless plain where every walking key moves the player."""
    policy = ExplorerPolicy(config or PolicyConfig(), seed)
    x, tilt = 0.0, 7.2
    played = Played([], [], [])
    for _ in range(num_frames):
        operation = policy.act(truth_at(x, 0.0, tilt))
        x += 0.17 * bool(operation.keys & WALK)
        tilt += operation.pitch_deg
        played.operations.append(operation)
        played.activities.append(policy.activity)
        played.tilts.append(tilt)
    return played


@pytest.fixture(scope="module")
def played() -> Played:
    return play_freely(NUM_FRAMES)


def share(operations: list[Operation], wanted) -> float:
    return sum(bool(wanted(operation)) for operation in operations) / len(operations)


def steps(angle_deg: float) -> int:
    """A camera turn in camera steps; turns must be whole numbers of them."""
    count = round(angle_deg / CAMERA_STEP_DEG)
    assert angle_deg == pytest.approx(count * CAMERA_STEP_DEG, abs=1e-6)
    return count


def test_every_operation_gets_its_share_of_the_time() -> None:
    operations = play_freely(NUM_FRAMES, ONLY_MOVEMENTS).operations
    assert 0.28 < share(operations, lambda o: "w" in o.keys and not o.yaw_deg) < 0.42
    assert 0.15 < share(operations, lambda o: not o.keys and o.yaw_deg) < 0.25
    assert 0.14 < share(operations, lambda o: "w" in o.keys and o.yaw_deg) < 0.24
    assert 0.08 < share(operations, lambda o: not o.keys and not o.yaw_deg) < 0.16
    for key in ("s", "a", "d", "space", "e", "q"):
        assert share(operations, lambda o, key=key: key in o.keys) > 0.015, key


def test_maneuvers_do_not_crowd_out_any_key(played: Played) -> None:
    for key in ("w", "s", "a", "d", "space", "e", "q"):
        assert share(played.operations, lambda o, key=key: key in o.keys) > 0.015, key


def test_every_activity_is_played_for_its_share(played: Played) -> None:
    counts = Counter(played.activities)
    for name, wanted in DEFAULT_MANEUVERS:
        assert counts[name] / NUM_FRAMES == pytest.approx(wanted, abs=0.005), name
    assert 0.35 < 1 - counts[MOVEMENT] / NUM_FRAMES < 0.45
    half = Counter(played.activities[: NUM_FRAMES // 10])
    assert set(half) >= {name for name, _ in DEFAULT_MANEUVERS}


def test_left_and_right_are_balanced(played: Played) -> None:
    turns = Counter(round(operation.yaw_deg, 1) for operation in played.of(MOVEMENT))
    assert set(turns) == {-2.4, -1.2, 0.0, 1.2, 2.4}
    for speed in (1.2, 2.4):
        assert turns[speed] == pytest.approx(turns[-speed], rel=0.1)
    for operations in (played.operations, played.of(*dict(DEFAULT_MANEUVERS))):
        left, right = (share(operations, lambda o, key=key: key in o.keys) for key in "ad")
        assert left == pytest.approx(right, rel=0.15)
        left, right = (share(operations, lambda o, sign=sign: sign * o.yaw_deg > 0) for sign in (-1, 1))
        assert left == pytest.approx(right, rel=0.1)


def test_every_movement_with_a_side_has_its_mirror_image() -> None:
    mirrored = {"a": "d", "d": "a"}
    shares = Counter()
    for part, operation in DEFAULT_MOVEMENTS:
        shares[operation] += part
    for operation, part in shares.items():
        keys = frozenset(mirrored.get(key, key) for key in operation.keys)
        assert shares[Operation(keys, -operation.yaw_deg)] == pytest.approx(part)


def test_a_maneuver_is_followed_by_its_mirror_image(played: Played) -> None:
    first, second = played.stretches("circle")[:2]
    assert [o.yaw_deg for o in first] == [-o.yaw_deg for o in second]


def test_the_same_seed_plays_the_same(played: Played) -> None:
    assert play_freely(2000).operations == played.operations[:2000]
    assert play_freely(2000, seed=4).operations != played.operations[:2000]


def test_turns_are_carried_out_exactly_and_stay_in_the_models_range(played: Played) -> None:
    for operation in set(played.operations):
        assert max(abs(operation.yaw_deg), abs(operation.pitch_deg)) <= MAX_CAMERA_DEG
        steps(operation.yaw_deg), steps(operation.pitch_deg)


def test_a_look_back_ends_with_the_heading_it_began_with(played: Played) -> None:
    stretches = played.stretches("look_back")
    angles = []
    for operations in stretches:
        turns = [steps(operation.yaw_deg) for operation in operations]
        assert sum(turns) == 0
        assert not any(operation.keys for operation in operations)
        angles.append(sum(turn for turn in turns if turn > 0) * CAMERA_STEP_DEG)
    assert 59.9 < min(angles) < 80 and 150 < max(angles) < 180.1
    first = [next(o.yaw_deg for o in operations if o.yaw_deg) for operations in stretches]
    assert sum(yaw > 0 for yaw in first) == pytest.approx(len(first) / 2, abs=1)


def test_circles_and_squares_end_with_the_heading_they_began_with(played: Played) -> None:
    for name in ("circle", "square"):
        for operations in played.stretches(name):
            assert abs(sum(steps(o.yaw_deg) for o in operations)) == steps(360.0)


def test_walked_loops_end_where_they_began(played: Played) -> None:
    """Places are told apart to a tenth of a frame's walk."""
    for name in ("square", "there_and_back"):
        stretches = played.stretches(name)
        assert len(stretches) >= 5
        for operations in stretches:
            heading, x, z, farthest = 0.0, 0.0, 0.0, 0.0
            for operation in operations:
                forward = ("w" in operation.keys) - ("s" in operation.keys)
                right = ("d" in operation.keys) - ("a" in operation.keys)
                x += forward * math.sin(heading) + right * math.cos(heading)
                z += forward * math.cos(heading) - right * math.sin(heading)
                heading += math.radians(operation.yaw_deg)
                farthest = max(farthest, math.hypot(x, z))
            assert math.hypot(x, z) < 0.1 and farthest >= 12
            assert sum(steps(o.yaw_deg) for o in operations) % steps(360.0) == 0


def test_key_mixes_start_and_stop_suddenly(played: Played) -> None:
    lengths, combinations = [], set()
    for operations in played.stretches("key_mix"):
        run = 1
        for before, after in itertools.pairwise(operations):
            if before == after:
                run += 1
            else:
                lengths.append(run)
                run = 1
        combinations |= {operation.keys for operation in operations}
    assert sum(length <= 10 for length in lengths) > 0.9 * len(lengths)
    assert {1, 2, 5, 10} <= set(lengths)
    assert len(combinations) > 25
    assert 0.05 < share(played.of("key_mix"), lambda o: not o.keys and not o.yaw_deg) < 0.4


def test_far_looks_are_held_and_end_level(played: Played) -> None:
    extremes = []
    walking = 0
    tilt = 7.2
    for operations in played.stretches("far_look"):
        pitches = [operation.pitch_deg for operation in operations]
        assert sum(steps(pitch) for pitch in pitches) == 0
        still = [pitch for operation, pitch in zip(operations, pitches, strict=True) if not pitch]
        assert len(still) >= 8
        walking += any(operation.keys & WALK for operation in operations)
        tilt = 7.2 + max((sum(pitches[:end]) for end in range(len(pitches))), key=abs)
        extremes.append(tilt)
    assert min(extremes) < -50 and max(extremes) > 50
    assert sum(extreme < 0 for extreme in extremes) == pytest.approx(len(extremes) / 2, rel=0.4)
    assert 0.3 < walking / len(extremes) < 0.8


def test_mouse_turns_have_many_speeds_and_ease_in_and_out(played: Played) -> None:
    operations = played.of("mouse_turns")
    speeds = Counter(abs(steps(operation.yaw_deg)) for operation in operations)
    assert len(speeds) >= 25 and max(speeds) >= 28
    for slow, fast in ((1, 4), (5, 9), (10, 17), (18, 30)):
        assert sum(speeds[speed] for speed in range(slow, fast + 1)) > 0.06 * len(operations)
    assert share(operations, lambda o: o.yaw_deg and o.pitch_deg) > 0.2
    yaws = [operation.yaw_deg for operation in operations]
    fast = [i for i in range(1, len(yaws)) if abs(yaws[i]) >= 4]
    sudden = [i for i in fast if abs(yaws[i - 1]) < 0.5]
    assert len(sudden) < 0.2 * len(fast)


def test_the_view_always_returns_to_level() -> None:
    tilts = play_freely(NUM_FRAMES, ONLY_MOVEMENTS).tilts
    assert -1.0 < min(tilts) < 4.0
    assert 11.0 < max(tilts) < 16.0
    level = sum(abs(tilt - 7.2) < 0.7 for tilt in tilts)
    assert level / len(tilts) > 0.6


def test_the_view_stays_within_the_games_range(played: Played) -> None:
    assert -60.1 < min(played.tilts) < -55 and 55 < max(played.tilts) < 60.1
    assert sum(abs(tilt - 7.2) < 0.7 for tilt in played.tilts) / NUM_FRAMES > 0.4
    narrow = play_freely(30_000, PolicyConfig(tilts=TiltRange(-32, 56)))
    assert -32.1 < min(narrow.tilts) < -25
    assert max(narrow.tilts) < 56.1


def test_a_player_at_a_wall_turns_or_jumps_within_a_second() -> None:
    policy = ExplorerPolicy(PolicyConfig(push_share=0.0), seed=5)
    pushing, longest = 0, 0
    for _ in range(5000):
        operation = policy.act(truth_at(0.0, 0.0))
        straight = operation.keys & WALK and not operation.yaw_deg and "space" not in operation.keys
        pushing = pushing + 1 if straight else 0
        longest = max(longest, pushing)
    # A segment of 20 frames walks on after the turn, before the next look at what blocks the way.
    assert longest <= PolicyConfig().stuck_frames + 20


def test_a_player_at_a_wall_walks_on_for_one_or_two_seconds_some_of_the_time() -> None:
    config = PolicyConfig(movements=((1.0, Operation(frozenset("w"))),), maneuvers=())
    policy = ExplorerPolicy(config, seed=5)
    pushes, turns, pushing, before = [], 0, 0, ""
    for _ in range(10_000):
        operation = policy.act(truth_at(0.0, 0.0))
        pushing = pushing + 1 if operation.keys == {"w"} and policy.activity in (MOVEMENT, PUSH) else 0
        turns += policy.activity == ESCAPE != before
        before = policy.activity
        if policy.activity == PUSH:
            pushes.append(pushing)
    assert 24 <= max(pushes) <= config.stuck_frames + config.max_push
    assert turns > 40, "a player who pushed turns away or jumps in the end"


def test_a_player_who_climbed_a_block_sometimes_goes_down_and_up_again() -> None:
    policy = ExplorerPolicy(PolicyConfig(), seed=2)
    x, activities, backwards = 0.0, Counter(), 0
    for _ in range(20_000):
        height = float(int(x / 6))  # a stair of blocks
        operation = policy.act(truth_at(x, 0.0, height=height))
        x += 0.17 * (bool(operation.keys & {"w", "a", "d"}) - ("s" in operation.keys))
        activities[policy.activity] += 1
        backwards += policy.activity == LEDGE and "s" in operation.keys
    assert 0.01 < activities[LEDGE] / 20_000 < 0.04
    assert backwards


def test_a_player_at_the_water_turns_away_at_once() -> None:
    config = PolicyConfig(movements=((1.0, Operation(frozenset("w"))),), maneuvers=())
    policy = ExplorerPolicy(config, seed=1)
    x = 0.0
    for _ in range(10):
        policy.act(truth_at(x := x + 0.2, 0.0))
    operation = policy.act(truth_at(x, 0.0, hazard=True))
    assert not operation.keys
    assert math.isclose(abs(operation.yaw_deg), 2.4)


def test_no_activity_walks_on_towards_a_hazard() -> None:
    policy = ExplorerPolicy(PolicyConfig(), seed=7)
    x, interrupted = 0.0, set()
    for frame in range(40_000):
        before = policy.activity
        hazard = frame % 50 == 49
        operation = policy.act(truth_at(x, 0.0, hazard=hazard))
        x += 0.17 * bool(operation.keys & WALK)
        if hazard and before != ESCAPE and policy.activity == ESCAPE:
            interrupted.add(before)
            assert not operation.keys and operation.yaw_deg
    walked = {"square", "there_and_back", "key_mix", "far_look", "mouse_turns", "hops"}
    assert interrupted >= walked | {MOVEMENT}


def test_unknown_maneuvers_and_shares_without_movements_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown maneuver 'somersault'"):
        PolicyConfig(maneuvers=(("somersault", 0.1),))
    with pytest.raises(ValueError, match="leave some time"):
        PolicyConfig(maneuvers=(("circle", 0.5), ("square", 0.5)))

"""The scripted player: which keys and camera turns are played, so that footage covers all of them evenly."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from random import Random

from gamegen.controls import KEY_PITCH_DEG
from gamegen.footage.maneuvers import FAST, GENERATORS, SLOW, Maneuver, Operation, down_and_up, held, mirrored
from gamegen.footage.recorder import TiltRange, Truth

WALKING_KEYS = frozenset("wasd")
MOVEMENT, LEDGE, PUSH, ESCAPE = "movement", "ledge", "push", "escape"
"""Activities besides the maneuvers of `GENERATORS`."""


def _both_sides(share: float, keys: str, *yaws: float) -> list[tuple[float, Operation]]:
    """Both mirror images of a movement with equal shares: strafe keys and yaw swap sides."""
    each = share / (2 * len(yaws))
    one = [held(keys, 1, yaw)[0] for yaw in yaws]
    return [(each, operation) for operation in one + mirrored(one)]


def _single(share: float, keys: str = "") -> list[tuple[float, Operation]]:
    return [(share, held(keys, 1)[0])]


DEFAULT_MOVEMENTS = tuple(
    _single(24, "w")
    + _single(4, "w+space")
    + _single(3, "w+e")
    + _both_sides(4, "w+a", 0.0)
    + _single(6, "s")
    + _both_sides(8, "a", 0.0)
    + _both_sides(20, "", -SLOW, -FAST)
    + _both_sides(16, "w", -SLOW, -FAST)
    + _both_sides(3, "a", FAST)
    + _both_sides(1, "w+space", -FAST)
    + _single(11)
    + _single(2, "e")
    + _single(1.5, "w+q")
    + _single(1, "q")
    + _single(0.5, "space")
)
"""Share of the time that movements are played for (any scale) and movement."""


DEFAULT_MANEUVERS = (
    ("look_back", 0.06),
    ("circle", 0.025),
    ("square", 0.03),
    ("there_and_back", 0.03),
    ("key_mix", 0.08),
    ("far_look", 0.07),
    ("mouse_turns", 0.08),
    ("hops", 0.03),
)
"""Name of a maneuver and its share of playing time; movements get the rest."""


@dataclass(frozen=True)
class PolicyConfig:
    """Settings of the scripted player: lengths in frames, angles in degrees, shares as fractions of playing time.

    `deck_size` movements are dealt in random order with exact shares before the deck is shuffled anew. A player
    who does not get on for `stuck_frames` pushes on with chance `push_share`, for `min_push` to `max_push` frames,
    then jumps with chance `jump_share` or turns away. A step of a block up is played down and up again for at most
    `ledge_share` of the time. Raises ValueError for an unknown maneuver or shares that leave nothing to movements.
    """

    movements: tuple[tuple[float, Operation], ...] = DEFAULT_MOVEMENTS
    maneuvers: tuple[tuple[str, float], ...] = DEFAULT_MANEUVERS
    tilts: TiltRange = field(default_factory=TiltRange)
    min_segment: int = 12
    max_segment: int = 40
    deck_size: int = 100
    pitch_share: float = 0.16
    pitch_burst: int = 6
    pitch_hold: int = 24
    level_tilt_deg: float = 7.2
    stuck_frames: int = 12
    stuck_nodes: float = 0.25
    push_share: float = 0.5
    min_push: int = 14
    max_push: int = 36
    jump_share: float = 0.3
    ledge_share: float = 0.03
    min_escape: int = 24
    max_escape: int = 56

    def __post_init__(self) -> None:
        for name, share in self.maneuvers:
            if name not in GENERATORS:
                raise ValueError(f"unknown maneuver {name!r}: use some of {', '.join(GENERATORS)}")
            if share < 0:
                raise ValueError(f"share {share} of {name}: give 0 or more")
        total = sum(share for _, share in self.maneuvers)
        if total >= 1:
            raise ValueError(f"shares of maneuvers add up to {total}: leave some time to movements, below 1")


@dataclass
class ExplorerPolicy:
    """Plays movements dealt from a deck and maneuvers, and turns away from what it cannot walk through.

    Left and right are dealt equally often: a maneuver's mirror image is played the next time. Keep one policy for
    the clips of a world: `begin_clip` forgets the place but neither the deck nor what was played for how long.
    `activity` names what is played now.
    """

    config: PolicyConfig
    seed: int
    activity: str = field(default=MOVEMENT, init=False)
    _deck: list[Operation] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)
        self._escape_side = 1
        self._shares = {MOVEMENT: 1 - sum(share for _, share in self.config.maneuvers)}
        self._shares |= dict(self.config.maneuvers)
        self._played: Counter[str] = Counter()
        self._unmirrored: dict[str, tuple[int, bool]] = {}
        self.begin_clip()

    def begin_clip(self) -> None:
        """Starts afresh at a new place."""
        self.activity = MOVEMENT
        self._queue: deque[Operation] = deque()
        self._walked: deque[tuple[float, float, float]] = deque(maxlen=self.config.stuck_frames)
        self._walking_keys: frozenset[str] = frozenset()
        self._pitch: deque[float] = deque()

    def act(self, truth: Truth) -> Operation:
        """The operation for the frame that `truth` describes."""
        self._react(truth)
        if not self._queue:
            self._plan_next(truth.tilt_deg)
        operation = self._queue.popleft()
        self._played[self.activity] += 1
        self._remember(operation.keys & WALKING_KEYS, truth.position)
        leads_camera = self.activity in GENERATORS
        pitch = operation.pitch_deg if leads_camera else self._next_pitch(truth.tilt_deg)
        if not self.config.tilts.contains(truth.tilt_deg + pitch):
            pitch = 0.0
        return Operation(operation.keys, operation.yaw_deg, pitch)

    def _play(self, activity: str, maneuver: Maneuver) -> None:
        self.activity, self._queue = activity, deque(maneuver)

    def _remember(self, keys: frozenset[str], position: tuple[float, float, float]) -> None:
        """Notes the way walked with the same keys; with others, a player may well come back where it was."""
        if keys != self._walking_keys:
            self._walked.clear()
            self._walking_keys = keys
        if keys:
            self._walked.append(position)

    def _react(self, truth: Truth) -> None:
        """Drops the plan before a hazard, at an obstacle and on a ledge."""
        if self.activity == ESCAPE and self._queue:
            return
        if truth.hazard and self._queue and self._queue[0].keys & WALKING_KEYS:
            self._turn_away()
        elif self.activity == PUSH:
            if not self._queue:
                self._escape()
        elif self._is_blocked():
            if self._random.random() < self.config.push_share:
                self._push()
            else:
                self._escape()
        elif self._has_climbed():
            budget = self.config.ledge_share * sum(self._played.values())
            if self.activity == MOVEMENT and self._played[LEDGE] < budget:
                self._walked.clear()
                self._play(LEDGE, self._on_some_side(down_and_up(self._random)))

    def _plan_next(self, tilt_deg: float) -> None:
        """Takes one of the activities that were played for less than their share."""
        rng, total = self._random, sum(self._played[name] for name in self._shares)
        under = [name for name, share in self._shares.items() if self._played[name] <= share * total]
        activity = rng.choice(under)
        if activity == MOVEMENT:
            frames = rng.randint(self.config.min_segment, self.config.max_segment)
            self._play(MOVEMENT, [self._deal()] * frames)
            if rng.random() < self.config.pitch_share and self._is_level(tilt_deg):
                self._plan_pitch()
        else:
            self._pitch.clear()
            self._play(activity, self._draw_maneuver(activity, tilt_deg))

    def _draw_maneuver(self, name: str, tilt_deg: float) -> Maneuver:
        """A new maneuver, or the mirror image of the last one."""
        is_new = name not in self._unmirrored
        if is_new:
            self._unmirrored[name] = self._random.randrange(2**31), self._random.random() < 0.5
        seed, swapped = self._unmirrored[name] if is_new else self._unmirrored.pop(name)
        maneuver = GENERATORS[name](Random(seed), tilt_deg, self.config.tilts)
        return mirrored(maneuver) if swapped == is_new else maneuver

    def _deal(self) -> Operation:
        if not self._deck:
            total = sum(share for share, _ in self.config.movements)
            for share, operation in self.config.movements:
                copies = share / total * self.config.deck_size
                whole = int(copies) + (self._random.random() < copies - int(copies))
                self._deck += [operation] * whole
            self._random.shuffle(self._deck)
        return self._deck.pop()

    def _is_blocked(self) -> bool:
        if len(self._walked) < self.config.stuck_frames:
            return False
        (x0, _, z0), (x1, _, z1) = self._walked[0], self._walked[-1]
        return math.hypot(x1 - x0, z1 - z0) < self.config.stuck_nodes

    def _has_climbed(self) -> bool:
        """True if the recent positions rise by one block and are level again."""
        if len(self._walked) < self.config.stuck_frames:
            return False
        heights = [height for _, height, _ in self._walked]
        return abs(heights[-1] - heights[-3]) < 0.02 and 0.9 < heights[-1] - heights[0] < 1.3

    def _push(self) -> None:
        """Walks on against the obstacle and, half of the time, takes another run at it."""
        self._walked.clear()
        rng, keys = self._random, self._walking_keys
        again = {"w": "s", "s": "w", "a": "d", "d": "a"}
        pushing = [Operation(keys)] * rng.randint(self.config.min_push, self.config.max_push)
        if rng.random() < 0.5:
            back = Operation(frozenset(again[key] for key in keys))
            run = [back] * rng.randint(6, 14) + [Operation()] * rng.randint(0, 6)
            pushing += run + [Operation(keys)] * rng.randint(self.config.min_push, self.config.max_push)
        self._play(PUSH, pushing)

    def _escape(self) -> None:
        """Jumps over the obstacle or turns away from it, then walks on."""
        self._walked.clear()
        if self._random.random() < self.config.jump_share:
            self._play(ESCAPE, held("w+space", 14))
        else:
            self._turn_away()

    def _turn_away(self) -> None:
        self._walked.clear()
        self._escape_side = -self._escape_side
        frames = self._random.randint(self.config.min_escape, self.config.max_escape)
        self._play(ESCAPE, held("", frames, FAST * self._escape_side) + held("w", 20))

    def _on_some_side(self, maneuver: Maneuver) -> Maneuver:
        return mirrored(maneuver) if self._random.random() < 0.5 else maneuver

    def _plan_pitch(self) -> None:
        """A look up or down and, after a while, back to level."""
        frames = self._random.randint(self.config.pitch_burst // 2, self.config.pitch_burst)
        turn = KEY_PITCH_DEG * self._random.choice((-1, 1))
        self._pitch = deque([turn] * frames + [0.0] * self._random.randint(6, self.config.pitch_hold))

    def _next_pitch(self, tilt_deg: float) -> float:
        if self._pitch:
            return self._pitch.popleft()
        if self._is_level(tilt_deg):
            return 0.0
        return -math.copysign(KEY_PITCH_DEG, tilt_deg - self.config.level_tilt_deg)

    def _is_level(self, tilt_deg: float) -> bool:
        return not self._pitch and abs(tilt_deg - self.config.level_tilt_deg) < KEY_PITCH_DEG / 2

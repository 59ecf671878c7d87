"""The scripted player: which keys and camera turns are played, so that footage covers all of them evenly."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from random import Random

from gamegen.controls import KEY_PITCH_DEG, KEY_TURN_DEG
from gamegen.footage.recorder import Truth

SLOW, FAST = KEY_TURN_DEG / 2, KEY_TURN_DEG
WALKING_KEYS = frozenset("wasd")


@dataclass(frozen=True)
class Operation:
    """Keys held and camera turn (degrees a frame; right and down are positive) in one frame."""

    keys: frozenset[str] = frozenset()
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0


@dataclass(frozen=True)
class Segment:
    """An operation kept for `frames` frames."""

    operation: Operation
    frames: int


def _mirrored(share: float, keys: str, *yaws: float) -> list[tuple[float, Operation]]:
    """Both mirror images of a movement with equal shares: strafe keys and yaw swap sides."""
    swap = {"a": "d", "d": "a"}
    held = frozenset(keys.split("+")) - {""}
    other = frozenset(swap.get(key, key) for key in held)
    each = share / (2 * len(yaws))
    pairs = [(Operation(held, yaw), Operation(other, -yaw)) for yaw in yaws]
    return [(each, operation) for pair in pairs for operation in pair]


def _single(share: float, keys: str = "") -> list[tuple[float, Operation]]:
    return [(share, Operation(frozenset(keys.split("+")) - {""}))]


DEFAULT_MOVEMENTS = tuple(
    _single(24, "w")
    + _single(4, "w+space")
    + _single(3, "w+e")
    + _mirrored(4, "w+a", 0.0)
    + _single(6, "s")
    + _mirrored(8, "a", 0.0)
    + _mirrored(20, "", -SLOW, -FAST)
    + _mirrored(16, "w", -SLOW, -FAST)
    + _mirrored(3, "a", FAST)
    + _mirrored(1, "w+space", -FAST)
    + _single(11)
    + _single(2, "e")
    + _single(1.5, "w+q")
    + _single(1, "q")
    + _single(0.5, "space")
)
"""Share of playing time (any scale) and movement."""


@dataclass(frozen=True)
class PolicyConfig:
    """How the scripted player plays; lengths are frames, angles degrees.

    `deck_size` segments are dealt in random order with exact shares before the deck is shuffled anew.
    """

    movements: tuple[tuple[float, Operation], ...] = DEFAULT_MOVEMENTS
    min_segment: int = 12
    max_segment: int = 40
    deck_size: int = 100
    pitch_share: float = 0.16
    pitch_burst: int = 6
    pitch_hold: int = 24
    level_tilt_deg: float = 7.2
    stuck_frames: int = 12
    stuck_nodes: float = 0.25
    jump_share: float = 0.3
    min_escape: int = 24
    max_escape: int = 56


@dataclass
class ExplorerPolicy:
    """Plays segments dealt from a deck and turns away from what it cannot walk through.

    Left and right are dealt equally often. Keep one policy for the clips of a world: `begin_clip` forgets the
    place but not the deck.
    """

    config: PolicyConfig
    seed: int
    _deck: list[Operation] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)
        self._escape_side = 1
        self.begin_clip()

    def begin_clip(self) -> None:
        """Starts afresh at a new place."""
        self._segment = Segment(Operation(), 0)
        self._left = 0
        self._queue: deque[Segment] = deque()
        self._walked: deque[tuple[float, float]] = deque(maxlen=self.config.stuck_frames)
        self._pitch: deque[float] = deque()
        self._escaping = False

    def act(self, truth: Truth) -> Operation:
        """The operation for the frame that `truth` describes."""
        if self._is_blocked(truth) and not self._escaping:
            self._escape(truth.hazard)
        if self._left <= 0:
            self._next_segment(truth.tilt_deg)
        self._left -= 1
        operation = self._segment.operation
        if operation.keys & WALKING_KEYS:
            self._walked.append((truth.position[0], truth.position[2]))
        else:
            self._walked.clear()
        return Operation(operation.keys, operation.yaw_deg, self._next_pitch(truth.tilt_deg))

    def _next_segment(self, tilt_deg: float) -> None:
        if self._queue:
            self._segment = self._queue.popleft()
        else:
            self._escaping = False
            frames = self._random.randint(self.config.min_segment, self.config.max_segment)
            self._segment = Segment(self._deal(), frames)
            if self._random.random() < self.config.pitch_share and self._is_level(tilt_deg):
                self._plan_pitch()
        self._left = self._segment.frames

    def _deal(self) -> Operation:
        if not self._deck:
            total = sum(share for share, _ in self.config.movements)
            for share, operation in self.config.movements:
                copies = share / total * self.config.deck_size
                whole = int(copies) + (self._random.random() < copies - int(copies))
                self._deck += [operation] * whole
            self._random.shuffle(self._deck)
        return self._deck.pop()

    def _is_blocked(self, truth: Truth) -> bool:
        walking = bool(self._segment.operation.keys & WALKING_KEYS) and self._left > 0
        if walking and truth.hazard:
            return True
        if len(self._walked) < self.config.stuck_frames:
            return False
        (x0, z0), (x1, z1) = self._walked[0], self._walked[-1]
        return math.hypot(x1 - x0, z1 - z0) < self.config.stuck_nodes

    def _escape(self, hazard: bool) -> None:
        """Jumps over the obstacle or turns away from it, then walks on."""
        self._walked.clear()
        self._escaping = True
        rng = self._random
        if not hazard and rng.random() < self.config.jump_share:
            self._queue = deque([Segment(Operation(frozenset({"w", "space"})), 14)])
        else:
            self._escape_side = -self._escape_side
            frames = rng.randint(self.config.min_escape, self.config.max_escape)
            turn = Segment(Operation(yaw_deg=FAST * self._escape_side), frames)
            self._queue = deque([turn, Segment(Operation(frozenset("w")), 20)])
        self._left = 0

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

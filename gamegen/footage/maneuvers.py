"""Maneuvers of the scripted player: loops that end where they began, key mixes, far looks, mouse turns and hops.

A maneuver is a list of operations, one a frame. Camera turns are whole multiples of `CAMERA_STEP_DEG`, which
recorders carry out exactly, and at most `MAX_CAMERA_DEG`, which is as far as the model's operations reach.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from gamegen.controls import KEY_PITCH_DEG, KEY_TURN_DEG, MAX_CAMERA_DEG
from gamegen.footage.recorder import CAMERA_STEP_DEG, TiltRange

SLOW, FAST = KEY_TURN_DEG / 2, KEY_TURN_DEG
SMOOTHSTEP_PEAK = 1.5
"""Peak speed of the smoothstep ease, relative to its mean speed."""
MIN_PEAK_DEG = 0.4


@dataclass(frozen=True)
class Operation:
    """Keys held and camera turn (degrees a frame; right and down are positive) in one frame."""

    keys: frozenset[str] = frozenset()
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0


Maneuver = list[Operation]
Generator = Callable[[Random, float, TiltRange], Maneuver]
"""Draws a maneuver, given the camera's tilt (degrees) at its start and the tilts that it may reach."""


def held(keys: str, frames: int, yaw_deg: float = 0.0) -> Maneuver:
    """Keys written as `w+space` (or an empty string) held for some frames."""
    return [Operation(frozenset(keys.split("+")) - {""}, yaw_deg)] * frames


def mirrored(maneuver: Maneuver) -> Maneuver:
    """The mirror image: strafe keys and yaw swap sides."""
    swap = {"a": "d", "d": "a"}
    return [
        Operation(frozenset(swap.get(key, key) for key in op.keys), 0.0 - op.yaw_deg, op.pitch_deg)
        for op in maneuver
    ]


def eased_turn(angle_deg: float, peak_deg: float, frames: int = 0) -> list[float]:
    """Turns (degrees a frame) that add up to the angle, rounded to camera steps, along a smoothstep ease.

    They take as many frames as `peak_deg`, the highest speed in degrees a frame, asks for, and at least `frames`.
    """
    steps = round(angle_deg / CAMERA_STEP_DEG)
    frames = max(1, frames, math.ceil(SMOOTHSTEP_PEAK * abs(angle_deg) / peak_deg))
    times = [frame / frames for frame in range(frames + 1)]
    reached = [round(steps * t * t * (3 - 2 * t)) for t in times]
    return [_degrees(after - before) for before, after in itertools.pairwise(reached)]


def steady_turn(angle_deg: float, speed_deg: float) -> list[float]:
    """Turns that add up to the angle at an even speed, with what is left over in the last frame."""
    steps, each = round(abs(angle_deg) / CAMERA_STEP_DEG), round(speed_deg / CAMERA_STEP_DEG)
    whole, rest = divmod(steps, each)
    sign = 1 if angle_deg > 0 else -1
    return [_degrees(sign * size) for size in [each] * whole + [rest] * bool(rest)]


def _degrees(steps: int) -> float:
    return round(steps * CAMERA_STEP_DEG, 1)


def draw_peak_deg(rng: Random, lowest: float = MIN_PEAK_DEG) -> float:
    """A peak speed in degrees a frame; each doubling of speed is equally likely."""
    return math.exp(rng.uniform(math.log(lowest), math.log(MAX_CAMERA_DEG)))


def _draw_turn(rng: Random, angle_deg: float, lowest_peak_deg: float = 2.0) -> list[float]:
    """A turn by held arrow keys or by the mouse."""
    if rng.random() < 0.35:
        return steady_turn(angle_deg, rng.choice((SLOW, FAST)) if abs(angle_deg) <= 120 else FAST)
    return eased_turn(angle_deg, draw_peak_deg(rng, lowest_peak_deg))


def _yawed(turns: list[float], keys: str = "") -> Maneuver:
    return [op for yaw in turns for op in held(keys, 1, yaw)]


def look_back(rng: Random, tilt_deg: float, tilts: TiltRange) -> Maneuver:
    """A look aside of 60 to 180 degrees, a pause, and the way back by exactly the same angle."""
    turns = _draw_turn(rng, rng.uniform(60, 180))
    back = [0.0 - turn for turn in reversed(turns)]
    return _yawed(turns) + held("", rng.randint(2, 30)) + _yawed(back) + held("", rng.randint(2, 10))


def circle(rng: Random, tilt_deg: float, tilts: TiltRange) -> Maneuver:
    """A full turn on the spot or, more rarely, along a walked circle."""
    keys = "w" if rng.random() < 0.3 else ""
    return _yawed(_draw_turn(rng, 360.0), keys) + held("", rng.randint(2, 12))


def square(rng: Random, tilt_deg: float, tilts: TiltRange) -> Maneuver:
    """Four equal walks with a quarter turn after each; ends at the start with the first heading."""
    side = held("w", rng.randint(14, 36)) + held("", rng.randint(6, 10))
    return (side + _yawed(_draw_turn(rng, 90.0, lowest_peak_deg=3.0))) * 4


def there_and_back(rng: Random, tilt_deg: float, tilts: TiltRange) -> Maneuver:
    """A walk and its way back: backwards, sideways, or forwards after half a turn (and another at the end)."""
    frames, pause = rng.randint(12, 48), held("", rng.randint(6, 14))
    if rng.random() < 0.4:
        half_turn = _yawed(_draw_turn(rng, 180.0, lowest_peak_deg=3.0))
        return (held("w", frames) + pause + half_turn) * 2
    there, back = rng.choice((("w", "s"), ("w", "s"), ("s", "w"), ("a", "d")))
    return held(there, frames) + pause + held(back, frames) + pause


def key_mix(rng: Random, tilt_deg: float, tilts: TiltRange) -> Maneuver:
    """Random keys and turns for 2 to 10 frames each, with sudden starts, stops and short pauses."""
    maneuver: Maneuver = []
    for _ in range(rng.randint(6, 14)):
        ways = (rng.choice(("", "w", "w", "s")), rng.choice(("", "", "a", "d")))
        extras = tuple(
            key for key, share in (("space", 0.2), ("e", 0.08), ("q", 0.06)) if rng.random() < share
        )
        yaw = pitch = 0.0
        if rng.random() < 0.5:
            speed = rng.choice((SLOW, FAST)) if rng.random() < 0.5 else draw_peak_deg(rng)
            yaw = _degrees(rng.choice((-1, 1)) * round(speed / CAMERA_STEP_DEG))
        if rng.random() < 0.25:
            speed = KEY_PITCH_DEG if rng.random() < 0.5 else draw_peak_deg(rng) / 2
            pitch = _degrees(rng.choice((-1, 1)) * round(speed / CAMERA_STEP_DEG))
        keys = frozenset((*ways, *extras)) - {""}
        maneuver += [Operation(keys, yaw, pitch)] * rng.randint(2, 10)
        if rng.random() < 0.4:
            maneuver += held("", rng.randint(1, 6))
    return maneuver


def far_look(rng: Random, tilt_deg: float, tilts: TiltRange) -> Maneuver:
    """A look far up or down, held a while, and the way back, standing, walking or turning meanwhile."""
    limit = rng.choice((tilts.highest_deg, tilts.lowest_deg))
    angle = limit * min(1.0, rng.uniform(0.5, 1.1)) - tilt_deg
    turns = (
        steady_turn(angle, KEY_PITCH_DEG)
        if rng.random() < 0.4
        else eased_turn(angle, draw_peak_deg(rng, 1.0))
    )
    pause = rng.randint(8, 48)
    keys = rng.choice(("", "", "w", "w+a", "s"))
    yaw = rng.choice((0.0, 0.0, 0.4, SLOW))
    pitches = [*turns, *[0.0] * pause, *(0.0 - turn for turn in reversed(turns))]
    return [Operation(op.keys, op.yaw_deg, pitch) for pitch in pitches for op in held(keys, 1, yaw)]


def mouse_turns(rng: Random, tilt_deg: float, tilts: TiltRange) -> Maneuver:
    """Swings of the mouse at many speeds in both axes, eased in and out, with a trembling hand between them."""
    keys = rng.choice(("", "", "w", "w", "w+a", "a", "s"))
    maneuver: Maneuver = []
    for _ in range(rng.randint(2, 4)):
        peak = draw_peak_deg(rng) if rng.random() < 0.5 else rng.uniform(MIN_PEAK_DEG, MAX_CAMERA_DEG)
        frames = rng.randint(6, 40)
        yaw = rng.choice((-1, 1)) * min(180.0, peak * frames / SMOOTHSTEP_PEAK)
        target = rng.triangular(tilts.highest_deg / 2, tilts.lowest_deg / 2)
        yaws = eased_turn(yaw, peak)
        pitches = eased_turn(rng.choice((0.0, 1.0)) * (target - tilt_deg), MAX_CAMERA_DEG, frames=len(yaws))
        yaws += [0.0] * (len(pitches) - len(yaws))
        tilt_deg += sum(pitches)
        for turn in zip(yaws, pitches, strict=True):
            maneuver += [Operation(op.keys, *turn) for op in held(keys, 1)]
        maneuver += _trembling(rng, keys)
    return maneuver


def _trembling(rng: Random, keys: str) -> Maneuver:
    sizes = (-2, -1, -1, 0, 0, 0, 1, 1, 2)
    turns = [(_degrees(rng.choice(sizes)), _degrees(rng.choice(sizes))) for _ in range(rng.randint(2, 12))]
    return [Operation(op.keys, yaw, pitch) for yaw, pitch in turns for op in held(keys, 1)]


def hops(rng: Random, tilt_deg: float, tilts: TiltRange) -> Maneuver:
    """Jumps while walking, now and then with a strafe key: on and off whatever is a block high."""
    maneuver: Maneuver = []
    for _ in range(rng.randint(2, 5)):
        keys = rng.choice(("w", "w", "w", "w+a", "s"))
        maneuver += held(f"{keys}+space", rng.randint(3, 10)) + held(keys, rng.randint(4, 16))
    return maneuver


def down_and_up(rng: Random) -> Maneuver:
    """Off the ledge that was just climbed, and on again: backwards, or forwards after half a turn."""
    pause, climb = held("", rng.randint(2, 10)), held("w", rng.randint(2, 8)) + held("w+space", 12)
    if rng.random() < 0.5:
        return pause + held("s", rng.randint(14, 26)) + pause + climb + held("w", rng.randint(8, 16))
    half_turn = _yawed(_draw_turn(rng, 180.0, lowest_peak_deg=3.0))
    return pause + half_turn + held("w", rng.randint(14, 26)) + pause + half_turn + climb


GENERATORS: dict[str, Generator] = {
    "look_back": look_back,
    "circle": circle,
    "square": square,
    "there_and_back": there_and_back,
    "key_mix": key_mix,
    "far_look": far_look,
    "mouse_turns": mouse_turns,
    "hops": hops,
}

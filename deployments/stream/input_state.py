"""A player's current keys and camera motion."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from deployments.stream.client_messages import ControlMessage
from deployments.stream.wire import BinaryControl
from gamegen.constants import FPS, FRAMES_PER_CHUNK
from gamegen.controls import MAX_CAMERA_DEG, Control

MAX_PENDING_DEG = FPS * MAX_CAMERA_DEG
"""Limit on the turn that is kept for later chunks, a second's: more would turn the world long after a flick."""


@dataclass
class InputState:
    """Keys that are down and camera motion, updated by each message of the player.

    A key that went down and up within one chunk still counts for that chunk, so that a quick tap is not lost.
    Turns add up until a chunk is drawn; the part that does not fit into its frames is left for the next.
    """

    keys: set[str] = field(default_factory=set)
    tapped: set[str] = field(default_factory=set)
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    pending_yaw_deg: float = 0.0
    pending_pitch_deg: float = 0.0
    timestamp: float | None = None
    arrived_s: float = 0.0

    def apply(self, message: ControlMessage) -> None:
        """Applies the key changes, camera motion and turn of a JSON message."""
        self.timestamp, self.arrived_s = message.timestamp, time.monotonic()
        if message.keyboard and message.keyboard.state:
            self.keys |= set(message.keyboard.keys)
            self.tapped |= set(message.keyboard.keys)
        elif message.keyboard:
            self.keys -= set(message.keyboard.keys)
        if message.camera:
            self.yaw_deg, self.pitch_deg = message.camera.yaw_deg, message.camera.pitch_deg
        if message.turn:
            self.pending_yaw_deg = _clipped(self.pending_yaw_deg + message.turn.yaw_deg, MAX_PENDING_DEG)
            self.pending_pitch_deg = _clipped(
                self.pending_pitch_deg + message.turn.pitch_deg, MAX_PENDING_DEG
            )

    def replace(self, message: BinaryControl) -> None:
        """Replaces keys and camera motion by those of a binary message, which names all keys that are down."""
        self.timestamp, self.arrived_s = message.timestamp, time.monotonic()
        self.tapped |= message.keys - self.keys
        self.keys = set(message.keys)
        self.yaw_deg, self.pitch_deg = message.yaw_deg, message.pitch_deg

    def take(self) -> Control:
        """The control for the next chunk; taps and the part of a turn that it uses are removed."""
        keys = self.keys | self.tapped
        self.tapped.clear()
        # The limit on the camera holds for arrow keys, camera motion and turns together.
        held_yaw_deg, held_pitch_deg = Control(keys, self.yaw_deg, self.pitch_deg).camera_deg()
        yaw_deg, self.pending_yaw_deg = _split_turn(self.pending_yaw_deg, held_yaw_deg)
        pitch_deg, self.pending_pitch_deg = _split_turn(self.pending_pitch_deg, held_pitch_deg)
        return Control(keys, self.yaw_deg + yaw_deg, self.pitch_deg + pitch_deg)


def _split_turn(pending_deg: float, held_deg: float) -> tuple[float, float]:
    """Splits a turn into the degrees a frame that fit on top of `held_deg`, and the turn that is left, in degrees."""
    left_deg, right_deg = -MAX_CAMERA_DEG - held_deg, MAX_CAMERA_DEG - held_deg
    part_deg = max(left_deg, min(right_deg, pending_deg / FRAMES_PER_CHUNK))
    return part_deg, pending_deg - part_deg * FRAMES_PER_CHUNK


def _clipped(degrees: float, limit: float) -> float:
    return max(-limit, min(limit, degrees))

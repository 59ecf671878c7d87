"""What a player holds at the moment."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from deployments.client_messages import ControlMessage
from deployments.wire import BinaryControl
from gamegen.controls import FPS, FRAMES_PER_CHUNK, MAX_CAMERA_DEG, Control

MAX_PENDING_DEG = FPS * MAX_CAMERA_DEG
"""What a second can turn at most. More is not kept: the world would go on turning long after a flick."""


@dataclass
class HeldControls:
    """Keys and camera as the player's messages left them.

    A key that went down and up within one chunk still counts for that chunk: a quick tap must not get lost.
    Turns add up until a chunk is drawn, and what does not fit into its frames is left for the next.
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
        """Takes a message in."""
        self.timestamp, self.arrived_s = message.timestamp, time.monotonic()
        if message.keyboard and message.keyboard.state:
            self.keys |= set(message.keyboard.keys)
            self.tapped |= set(message.keyboard.keys)
        elif message.keyboard:
            self.keys -= set(message.keyboard.keys)
        if message.camera:
            self.yaw_deg, self.pitch_deg = message.camera.yaw_deg, message.camera.pitch_deg
        if message.turn:
            self.pending_yaw_deg = _within(self.pending_yaw_deg + message.turn.yaw_deg, MAX_PENDING_DEG)
            self.pending_pitch_deg = _within(self.pending_pitch_deg + message.turn.pitch_deg, MAX_PENDING_DEG)

    def hold(self, message: BinaryControl) -> None:
        """Takes a binary message in, which names all keys that are down."""
        self.timestamp, self.arrived_s = message.timestamp, time.monotonic()
        self.tapped |= message.keys - self.keys
        self.keys = set(message.keys)
        self.yaw_deg, self.pitch_deg = message.yaw_deg, message.pitch_deg

    def take(self) -> Control:
        """What the next chunk is drawn under."""
        keys = self.keys | self.tapped
        self.tapped.clear()
        # Arrow keys turn too, and the room is for all three together.
        held_yaw_deg, held_pitch_deg = Control(keys, self.yaw_deg, self.pitch_deg).camera_deg()
        yaw_deg, self.pending_yaw_deg = _part(self.pending_yaw_deg, held_yaw_deg)
        pitch_deg, self.pending_pitch_deg = _part(self.pending_pitch_deg, held_pitch_deg)
        return Control(keys, self.yaw_deg + yaw_deg, self.pitch_deg + pitch_deg)


def _part(pending_deg: float, held_deg: float) -> tuple[float, float]:
    """Of a turn, the degrees a frame that fit on top of what is held, and the turn that is left."""
    left_deg, right_deg = -MAX_CAMERA_DEG - held_deg, MAX_CAMERA_DEG - held_deg
    part_deg = max(left_deg, min(right_deg, pending_deg / FRAMES_PER_CHUNK))
    return part_deg, pending_deg - part_deg * FRAMES_PER_CHUNK


def _within(degrees: float, limit: float) -> float:
    return max(-limit, min(limit, degrees))

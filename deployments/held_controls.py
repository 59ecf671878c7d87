"""What a player holds at the moment."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from deployments.schemas import ControlMessage
from deployments.wire import BinaryControl
from gamegen.controls import Control


@dataclass
class HeldControls:
    """Keys and camera as the player's messages left them.

    A key that went down and up within one chunk still counts for that chunk: a quick tap must not get lost.
    """

    keys: set[str] = field(default_factory=set)
    tapped: set[str] = field(default_factory=set)
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
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
        return Control(keys, self.yaw_deg, self.pitch_deg)

    def release(self) -> None:
        """Nobody holds anything any more."""
        self.keys.clear()
        self.tapped.clear()
        self.yaw_deg = self.pitch_deg = 0.0
        self.timestamp = None

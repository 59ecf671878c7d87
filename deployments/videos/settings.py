"""What an operator sets about the clip service, besides its replicas."""

from __future__ import annotations

from dataclasses import dataclass, field

from gamegen.retention.settings import RetentionSettings
from gamegen.safety.settings import SafetySettings
from gamegen.videos.tiers import QueueSettings
from gamegen.webhooks.sender import WebhookSettings


@dataclass(frozen=True)
class VideoApiSettings:
    """What one ingress process allows its clients.

    An account may place `max_orders_per_s`. Orders that come together are written down together, `orders_at_once` of
    them at most. At most `max_streams` watch a video
    at a time; each is sent something every `heartbeat_s`, and looks by itself as often, should the database's word be
    lost. Files stay for `kept_days`. With `redirects_content` clients are sent to the object store for them, by an
    address that is good for `url_s`, where it has such addresses.
    """

    max_orders_per_s: int = 500
    orders_at_once: int = 64
    max_streams: int = 1000
    heartbeat_s: float = 5.0
    kept_days: int = 30
    redirects_content: bool = False
    url_s: int = 3600

    def __post_init__(self) -> None:
        for name in ("max_orders_per_s", "orders_at_once", "max_streams", "kept_days", "url_s"):
            if getattr(self, name) < 1:
                raise ValueError(f"VideoApiSettings.{name} = {getattr(self, name)}: must be at least 1")
        if not 0 < self.heartbeat_s <= 30:
            raise ValueError(f"VideoApiSettings.heartbeat_s = {self.heartbeat_s:g}: use up to 30 seconds")


@dataclass(frozen=True)
class VideoSettings:
    """The queue's limits and prices, the API's limits, what is judged, how webhooks are sent and how long what is kept.

    Clips of more than `max_pixels` a frame are refused: those of a large one take the machine for long.
    """

    max_pixels: int = 854 * 480
    queue: QueueSettings = field(default_factory=QueueSettings)
    api: VideoApiSettings = field(default_factory=VideoApiSettings)
    safety: SafetySettings = field(default_factory=SafetySettings)
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)

    def __post_init__(self) -> None:
        if self.max_pixels < 256:
            raise ValueError(f"VideoSettings.max_pixels = {self.max_pixels}: use at least 256, 16x16")

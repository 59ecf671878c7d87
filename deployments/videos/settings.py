"""Settings of the clip service, besides those of its replicas."""

from __future__ import annotations

from dataclasses import dataclass, field

from gamegen.service.orders.tiers import QueueSettings
from gamegen.service.retention.settings import RetentionSettings
from gamegen.service.safety.settings import SafetySettings
from gamegen.service.webhooks.settings import WebhookSettings


@dataclass(frozen=True, kw_only=True)
class VideoApiSettings:
    """Limits of the clip service in one ingress process.

    An account may place `max_orders_per_s` orders a second. Up to `orders_at_once` concurrent orders share a
    transaction. At most `max_streams` event streams are open; each sends something every `heartbeat_s` seconds and
    polls the database as often, in case a notification was lost. Files expire after `kept_days`. With
    `redirects_content` downloads are redirected to the object store if it has URLs, valid for `url_s` seconds.
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


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """Settings of the queue and its prices, the API, the safety checks, webhooks and retention.

    Clips of more than `max_frames` at 24 a second are refused, those of more than `max_pixels` a frame of the file, and
    those that are more work than `max_work`: megapixels drawn times passes of the model, and an eighth of the
    megapixels that are written besides (a minute of 160x96 in 8 steps is 177, in 1280x720 and 50 steps 1269).

    Where the clip service still cannot be opened `start_timeout_s` after an ingress replica started, for a wrong key
    file or a bucket that does not exist, the replica fails its health checks with the reason.
    """

    start_timeout_s: float = 60.0
    max_pixels: int = 1920 * 1080
    max_work: float = 2500.0
    max_frames: int = 60 * 24
    queue: QueueSettings = field(default_factory=QueueSettings)
    api: VideoApiSettings = field(default_factory=VideoApiSettings)
    safety: SafetySettings = field(default_factory=SafetySettings)
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)

    def __post_init__(self) -> None:
        if self.start_timeout_s <= 0:
            raise ValueError(
                f"VideoSettings.start_timeout_s = {self.start_timeout_s:g}: use more than 0 seconds"
            )
        if self.max_work <= 0:
            raise ValueError(f"VideoSettings.max_work = {self.max_work:g}: use more than 0")
        if self.max_frames < 1:
            raise ValueError(f"VideoSettings.max_frames = {self.max_frames}: use at least 1")
        if self.max_pixels < 256:
            raise ValueError(f"VideoSettings.max_pixels = {self.max_pixels}: use at least 256, 16x16")

"""What an operator sets about the clip service, besides its replicas."""

from __future__ import annotations

from dataclasses import dataclass, field

from deployments.videos.service import VideoApiSettings
from gamegen.retention.settings import RetentionSettings
from gamegen.safety.settings import SafetySettings
from gamegen.videos.tiers import QueueSettings
from gamegen.webhooks.sender import WebhookSettings


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

"""The clip service's side of an ingress: its parts, put together in the replica that uses them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.settings import ServeSettings
from deployments.videos import metrics
from deployments.videos.accounts import Accounts
from deployments.videos.api import VideoApi
from deployments.videos.judging import blocked, judged_words
from deployments.videos.ordering import ServedModel
from deployments.videos.service import VideoService
from gamegen.clips.plan import ClipPlan
from gamegen.config import build
from gamegen.database.connection import connect
from gamegen.models.sampling import SamplingConfig
from gamegen.safety.checks import SafetyChecks, refusal
from gamegen.safety.settings import NONE, SafetySettings
from gamegen.storage.objects import open_store
from gamegen.videos.listen import Listener
from gamegen.videos.order import Order
from gamegen.videos.queue import VideoQueue
from gamegen.videos.records import Failure
from gamegen.webhooks.deliveries import Deliveries
from gamegen.webhooks.sealing import Seal
from gamegen.webhooks.signing import Secrets
from gamegen.webhooks.urls import check_url

_POOL = 8
_SURELY_FEW_CHARACTERS = 240
"""A text has no more tokens than characters, and its perspective adds a few of both."""
_QUICK_CHECKER = "blocklist"


class VideoDesk:
    """Takes orders for a model of which a world replica told the facts. Made in the loop that serves it."""

    def __init__(
        self,
        settings: ServeSettings,
        database_url: str,
        objects_url: str,
        text_encoder: DeploymentHandle,
        facts: dict[str, Any],
    ) -> None:
        metrics.begin_ingress()
        self._settings = settings
        self._text_encoder = text_encoder
        self._sampling = build(SamplingConfig, facts["sampling"], "sampling")
        self._checks = SafetyChecks(_quick(settings.videos.safety))
        self._engine = connect(database_url, _POOL)
        self._listener = Listener(database_url)
        webhooks = settings.videos.webhooks
        self._secrets = Secrets(self._engine, webhooks.rotation, Seal.from_environment())
        self.api = VideoApi(
            VideoService(
                queue=VideoQueue(self._engine, settings.videos.queue),
                listener=self._listener,
                objects=open_store(objects_url),
                model=ServedModel(
                    settings.model, facts["width"], facts["height"], self._sampling.guidance_scale
                ),
                count_steps=self._count_steps,
                deliveries=Deliveries(self._engine, webhooks.retries),
                rotate_secret=self._rotate_secret,
                accounts=Accounts.from_environment(),
                settings=settings.videos.api,
                check_text=self._check_text,
                judge=self._judge,
                check_webhook_url=lambda url: check_url(url, webhooks.urls),
            )
        )

    async def open(self) -> None:
        """Begins to hear of events."""
        await self._listener.__aenter__()

    async def close(self) -> None:
        """Gives its connections back."""
        await self._listener.__aexit__()
        await self._engine.dispose()

    def _count_steps(self, order: Order) -> int:
        """Raises ValueError for an order that is beyond the limits."""
        limit = self._settings.videos.max_pixels
        if order.width * order.height > limit:
            raise ValueError(
                f"{order.width}x{order.height} are {order.width * order.height} pixels and the limit here is {limit}: "
                "choose a smaller size"
            )
        num_steps = ClipPlan.of(order, self._sampling).num_steps
        if num_steps == 0:
            raise ValueError(
                f"num_frames: {order.num_frames} frames are the image itself, ask for more than 4"
            )
        return num_steps

    async def _rotate_secret(self, account: str) -> str:
        return (await self._secrets.rotate(account)).text

    async def _check_text(self, order: Order) -> None:
        for text, perspective in ((order.prompt, order.perspective), (order.negative_prompt, None)):
            if len(text) > _SURELY_FEW_CHARACTERS:
                reply = await self._text_encoder.encode.remote(text, perspective)
                if message := getattr(reply, "message", None):
                    raise ValueError(message)

    async def _judge(self, order: Order) -> Failure | None:
        refused = refusal(judged_words(self._checks, order))
        return blocked(refused) if refused else None


def _quick(settings: SafetySettings) -> SafetySettings:
    """Only the checker that takes no time: the clerk asks all of them."""
    names = tuple(name for name in settings.prompt_checkers if name == _QUICK_CHECKER)
    return replace(settings, prompt_checkers=names or (NONE,), frames_checkers=(NONE,))

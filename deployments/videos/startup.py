"""Opening of the clip service when an ingress replica starts."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace

from deployments.errors import ApiError
from deployments.observability import video_metrics
from deployments.prompts import PromptEncoder
from deployments.stores import StoreUrls
from deployments.videos.api_keys import ApiKeys
from deployments.videos.content import VideoDownloads
from deployments.videos.events import EventStreams
from deployments.videos.order_placer import OrderPlacer
from deployments.videos.orders import ServedModel
from deployments.videos.service import VideoService
from deployments.videos.settings import VideoSettings
from gamegen.service.database.connection import connect
from gamegen.service.orders.listen import Listener
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.safety.checks import SafetyChecks
from gamegen.service.safety.settings import NONE, SafetySettings
from gamegen.service.webhooks.deliveries import Deliveries
from gamegen.service.webhooks.secret_box import SecretBox
from gamegen.service.webhooks.signing import SigningSecrets
from gamegen.storage.encryption import open_store
from gamegen.storage.objects import MissingStoreError, ObjectStore, StorageError

logger = logging.getLogger("ray.serve")

OpenVideoService = Callable[[AsyncExitStack], Awaitable[VideoService]]
_POOL_SIZE = 8
_RETRY_INTERVAL_S = 2.0
_RETRY_AFTER_S = 3
_QUICK_CHECKER = "blocklist"
_SETTINGS_ERRORS = (ValueError, OSError, StorageError)
_CREDENTIALS = re.compile(r"//[^/@\s]*@")
_MAX_REASON_CHARACTERS = 300


class VideoStartupError(RuntimeError):
    """The clip service could not be opened within its start-up time."""


class VideoStartup:
    """Opens the clip service in the background, retries while that fails, and tells the reason.

    `open_service` registers what is to be closed with the stack that it gets.
    """

    def __init__(
        self, open_service: OpenVideoService, *, timeout_s: float, retry_interval_s: float = _RETRY_INTERVAL_S
    ) -> None:
        self._open_service = open_service
        self._timeout_s = timeout_s
        self._retry_interval_s = retry_interval_s
        self._begun_s = time.monotonic()
        self._service: VideoService | None = None
        self._resources = AsyncExitStack()
        self._failure: str | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Starts to open the service, in the running event loop; without effect after the first call."""
        if self._task is None:
            self._begun_s = time.monotonic()
            self._task = asyncio.create_task(self._open())

    @property
    def service(self) -> VideoService:
        """The open service; raises ApiError (503) with the reason until it is open."""
        if self._service is None:
            raise self._not_ready()
        return self._service

    @property
    def failure(self) -> ApiError | None:
        """The error that an attempt to open the service ended with, None while there is none or it is open."""
        return self._not_ready() if self._failure else None

    def check_health(self) -> None:
        """Raises VideoStartupError if opening the service still fails after `timeout_s`."""
        if self._failure and time.monotonic() - self._begun_s > self._timeout_s:
            raise VideoStartupError(
                f"the clip service could not be opened within {self._timeout_s:g} s: {self._failure}"
            )

    async def close(self) -> None:
        """Stops opening, or closes the service's connections."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._service = None
        await self._resources.aclose()

    async def _open(self) -> None:
        while self._service is None:
            try:
                async with AsyncExitStack() as resources:
                    self._service = await self._open_service(resources)
                    self._resources = resources.pop_all()
                self._failure = None
            # Whatever it is, the operator has to be told, and may repair it without a restart.
            except Exception as error:
                self._failure = _reason(error)
                logger.error(
                    "the clip service cannot be opened, next attempt in %g s: %s",
                    self._retry_interval_s,
                    self._failure,
                    exc_info=None if isinstance(error, _SETTINGS_ERRORS) else error,
                )
                await asyncio.sleep(self._retry_interval_s)

    def _not_ready(self) -> ApiError:
        message = "clips cannot be ordered yet: the server is starting, try again in a few seconds"
        if self._failure:
            message = f"the clip service cannot be opened: {self._failure}"
        return ApiError(503, "not_ready", message, retry_after_s=_RETRY_AFTER_S)


async def open_video_service(
    resources: AsyncExitStack,
    *,
    settings: VideoSettings,
    stores: StoreUrls,
    prompt_encoder: PromptEncoder,
    served_model: Callable[[], Awaitable[ServedModel]],
) -> VideoService:
    """The clip service of this process; its connections are closed by `resources`.

    Raises ValueError, OSError and StorageError for wrong settings. A database or object store that cannot be reached
    is no error: requests wait for it, or are answered 503.
    """
    video_metrics.begin_ingress()
    api_keys = ApiKeys.from_environment()
    objects = open_store(stores.objects)
    await asyncio.to_thread(_check_exists, objects)
    engine = connect(stores.database, _POOL_SIZE)
    resources.push_async_callback(engine.dispose)
    secrets = SigningSecrets(engine, settings.webhooks.rotation, SecretBox.from_environment())
    listener = await resources.enter_async_context(Listener(stores.database))
    queue = VideoQueue(engine, settings.queue)
    return VideoService(
        queue=queue,
        placer=OrderPlacer(
            queue=queue,
            objects=objects,
            served_model=served_model,
            prompt_encoder=prompt_encoder,
            quick_checks=SafetyChecks(_only_quick(settings.safety)),
            settings=settings,
        ),
        streams=EventStreams(queue, listener, settings.api),
        downloads=VideoDownloads(objects, settings.api),
        deliveries=Deliveries(engine, settings.webhooks.retries),
        secrets=secrets,
        api_keys=api_keys,
        settings=settings.api,
    )


def _check_exists(objects: ObjectStore) -> None:
    """Raises MissingStoreError for a bucket that does not exist."""
    try:
        next(iter(objects.entries("inputs/")), None)
    except MissingStoreError:
        raise
    except StorageError as error:
        logger.warning("the object store cannot be listed, requests will wait for it: %s", _reason(error))


def _only_quick(settings: SafetySettings) -> SafetySettings:
    """The safety settings with the blocklist alone, which takes no time; the order intake asks all checkers."""
    names = tuple(name for name in settings.prompt_checkers if name == _QUICK_CHECKER)
    return replace(settings, prompt_checkers=names or (NONE,), frames_checkers=(NONE,))


def _reason(error: Exception) -> str:
    """An error for clients: its first line without a URL's credentials, or only the type of an unexpected error."""
    lines = str(error).strip().splitlines()
    if not lines or not isinstance(error, _SETTINGS_ERRORS):
        return type(error).__name__
    return _CREDENTIALS.sub("//***@", lines[0])[:_MAX_REASON_CHARACTERS]

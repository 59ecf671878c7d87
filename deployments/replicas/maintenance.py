"""Maintenance replicas: intake of orders, expired leases, retention and webhooks.

Their work is kept in the database and the object store, so that any of them may die at any time. In Serve, in the
settings and in the metrics they are named "Clerk".
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from ray import serve

from deployments.background import SupervisedTask
from deployments.observability import video_metrics
from deployments.settings import ServeSettings

_MAX_CONNECTIONS = 4


@serve.deployment(name="Clerk")
class MaintenanceDeployment:
    """Does everything about orders besides drawing them."""

    def __init__(self, settings: ServeSettings, database_url: str, objects_url: str) -> None:
        self._settings = settings
        self._database_url = database_url
        self._objects_url = objects_url
        video_metrics.begin_maintenance()
        self._name = f"clerk-{serve.get_replica_context().replica_tag}"
        self._task = SupervisedTask(self._run)

    async def check_health(self) -> None:
        """Serve calls this as long as the replica is in use."""
        self._task.ensure_running()

    async def __del__(self) -> None:
        """Serve calls this when the replica ends."""
        await self._task.stop()

    async def _run(self) -> None:
        from deployments.workers.housekeeping import Housekeeping
        from deployments.workers.intake import OrderIntake
        from gamegen.service.database.connection import connect
        from gamegen.service.orders.listen import Listener
        from gamegen.service.orders.queue import VideoQueue
        from gamegen.service.retention.retention import Retention
        from gamegen.service.safety.checks import SafetyChecks
        from gamegen.service.webhooks.sender import WebhookSender
        from gamegen.storage.encryption import open_store

        settings = self._settings.videos
        async with AsyncExitStack() as stack:
            engine = connect(self._database_url, _MAX_CONNECTIONS)
            stack.push_async_callback(engine.dispose)
            listener = await stack.enter_async_context(Listener(self._database_url))
            store = open_store(self._objects_url)
            queue = VideoQueue(engine, settings.queue)
            intake = OrderIntake(
                name=self._name,
                queue=queue,
                listener=listener,
                store=store,
                checks=SafetyChecks(settings.safety),
                lease_s=self._settings.clerk.lease_s,
            )
            await Housekeeping(
                intake=intake,
                queue=queue,
                retention=Retention(engine, store, settings.retention),
                sender=WebhookSender(
                    engine, settings.webhooks, on_result=lambda state: video_metrics.WEBHOOKS.add(tag=state)
                ),
            ).run()

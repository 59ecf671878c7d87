"""The ingress deployment: HTTP routes, the sockets of the stream and the page."""

from __future__ import annotations

from contextlib import AsyncExitStack

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from ray import serve
from ray.serve.handle import DeploymentHandle

import gamegen
from deployments.clients.decoder_client import DecoderClient
from deployments.clients.rebuild_limit import RebuildLimiter
from deployments.clients.text_encoder_client import TextEncoderClient
from deployments.clients.world_client import WorldShards
from deployments.errors import install_error_handlers
from deployments.ingress import gallery_routes, play_routes, status_routes
from deployments.ingress.base_path import BasePathMiddleware
from deployments.ingress.direct_server import STREAM_PATH, DirectServer
from deployments.ingress.draining import DrainWatch
from deployments.ingress.model_facts import ModelFacts
from deployments.ingress.request_id import RequestIdMiddleware
from deployments.ingress.request_rules import install_request_rules
from deployments.ingress.services import IngressServices
from deployments.ingress.sessions_api import SessionService
from deployments.ingress.starts import ServedGallery, SessionStarts
from deployments.ingress.status_routes import WEB_FOLDER
from deployments.ingress.uploads import Uploads
from deployments.prompts import PromptEncoder
from deployments.sessions.admission_queue import AdmissionQueue
from deployments.sessions.capacity_registry import CapacityRegistry, PlayCapacity
from deployments.sessions.store import SessionStore
from deployments.sessions.valkey_client import connect
from deployments.settings import ServeSettings
from deployments.stores import StoreUrls
from deployments.stream.context import PlayContext, ReplicaClients
from deployments.videos import routes as video_routes
from deployments.videos.orders import ServedModel
from deployments.videos.service import VideoService
from deployments.videos.startup import VideoStartup, open_video_service

INGRESS_HEALTH_CHECK_S = 1.0
_DESCRIPTION = (
    "Playable game worlds drawn by a video model. The stream of `/v1/sessions/{id}/stream` is a WebSocket: JSON text "
    "in, JSON text and binary JPEG frames out; `/docs` describes its messages."
)


@serve.deployment(name="Ingress")
@serve.ingress()
class Ingress:
    """Owns the sockets and each session's chunk loop; everything heavy happens behind its handles.

    Serve builds its application in the replica, by `__serve_build_asgi_app__`, once its services exist.
    """

    def __init__(
        self,
        *,
        settings: ServeSettings,
        stores: StoreUrls,
        text_encoder: DeploymentHandle,
        world: DeploymentHandle,
        decoder: DeploymentHandle,
        generator: DeploymentHandle,
        clerk: DeploymentHandle,
    ) -> None:
        # Generators and clerks take orders from the database by themselves; as arguments they are parts of the
        # application.
        del generator, clerk
        self._stores = stores
        self._services = _services(
            settings=settings,
            stores=stores,
            text_encoder=text_encoder,
            world=world,
            decoder=decoder,
            videos=VideoStartup(self._open_video_service, timeout_s=settings.videos.start_timeout_s),
        )
        self._draining = DrainWatch(INGRESS_HEALTH_CHECK_S, self._services.sessions.migrate_all)

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """The application behind Serve's proxy; the direct server and the clip service are opened with it."""
        services = self._services
        services.videos.begin()
        services.direct_server.open(_direct_app(services))
        return _public_app(services)

    async def check_health(self) -> None:
        """Called by Serve as long as this replica is in use; raises VideoStartupError."""
        self._draining.record_check()
        self._services.videos.check_health()

    async def __del__(self) -> None:
        """Called by Serve when the replica ends; Serve does not know the sockets of the direct server."""
        await self._services.sessions.migrate_all()
        await self._services.direct_server.close()
        await self._services.videos.close()

    async def _open_video_service(self, resources: AsyncExitStack) -> VideoService:
        services = self._services

        async def served_model() -> ServedModel:
            return ServedModel.from_facts(await services.model_facts.get())

        return await open_video_service(
            resources,
            settings=services.settings.videos,
            stores=self._stores,
            prompt_encoder=services.prompt_encoder,
            served_model=served_model,
        )


def _services(
    *,
    settings: ServeSettings,
    stores: StoreUrls,
    text_encoder: DeploymentHandle,
    world: DeploymentHandle,
    decoder: DeploymentHandle,
    videos: VideoStartup,
) -> IngressServices:
    valkey, limits = connect(stores.sessions), SessionService.store_limits(settings)
    store, queue = SessionStore(valkey, limits), AdmissionQueue(valkey, limits)
    capacity = PlayCapacity(CapacityRegistry(valkey), settings.ingress.max_sessions)
    uploads, gallery = Uploads(settings.ingress, world), ServedGallery(world)
    prompt_encoder = PromptEncoder(TextEncoderClient(text_encoder))
    return IngressServices(
        settings=settings,
        model_facts=ModelFacts(world),
        prompt_encoder=prompt_encoder,
        uploads=uploads,
        gallery=gallery,
        starts=SessionStarts(uploads, gallery),
        sessions=SessionService(settings=settings, store=store, queue=queue, capacity=capacity),
        play_context=PlayContext(
            settings=settings,
            store=store,
            queue=queue,
            capacity=capacity,
            replicas=ReplicaClients(
                worlds=WorldShards(
                    world, num_shards=settings.world.num_shards, max_batch=settings.world.slots
                ),
                decoder=DecoderClient(
                    decoder, num_replicas=settings.decoder.replicas, max_batch=settings.decoder.max_batch
                ),
                encode_text=prompt_encoder.encode,
                encode_video=uploads.encode_video,
                rebuild_limiter=RebuildLimiter(settings.ingress.rebuilds_at_once),
            ),
        ),
        videos=videos,
        direct_server=DirectServer(settings.ingress.direct_host),
    )


def _public_app(services: IngressServices) -> FastAPI:
    app = FastAPI(
        title="GameGen",
        version=gamegen.__version__,
        description=_DESCRIPTION,
        # The ready-made pages load their scripts from the internet; ours is in the web folder.
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(video_routes.router)
    app.include_router(play_routes.router)
    app.include_router(gallery_routes.router)
    app.include_router(status_routes.router)
    app.mount("/static", StaticFiles(directory=WEB_FOLDER), name="static")
    _complete(app, services)
    return app


def _direct_app(services: IngressServices) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.include_router(video_routes.router)
    app.add_api_websocket_route(STREAM_PATH, play_routes.stream)
    # The page may be at another address than this port. Its first message has to bring the session's token, which no
    # other site knows.
    _complete(app, services, guards_sockets=False)
    app.add_middleware(RequestIdMiddleware)
    return app


def _complete(app: FastAPI, services: IngressServices, *, guards_sockets: bool = True) -> None:
    app.state.services = services
    app.state.videos = services.videos
    install_error_handlers(app)
    install_request_rules(app, services.settings.ingress.allowed_origins, guards_sockets=guards_sockets)
    app.add_middleware(BasePathMiddleware)

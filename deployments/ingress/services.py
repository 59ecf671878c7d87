"""Services that the ingress's routes use."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from deployments.ingress.direct_server import DirectServer
from deployments.ingress.model_facts import ModelFacts
from deployments.ingress.sessions_api import SessionService
from deployments.ingress.starts import ServedGallery, SessionStarts
from deployments.ingress.uploads import Uploads
from deployments.prompts import PromptEncoder
from deployments.settings import ServeSettings
from deployments.stream.context import PlayContext
from deployments.videos.startup import VideoStartup


@dataclass(frozen=True, kw_only=True)
class IngressServices:
    """Services of one ingress replica, the `services` of its application's state."""

    settings: ServeSettings
    model_facts: ModelFacts
    prompt_encoder: PromptEncoder
    uploads: Uploads
    gallery: ServedGallery
    starts: SessionStarts
    sessions: SessionService
    play_context: PlayContext
    videos: VideoStartup
    direct_server: DirectServer
    started_s: float = field(default_factory=time.time)


async def services_of(connection: HTTPConnection) -> IngressServices:
    """The services of the application that got a request."""
    return connection.app.state.services


Services = Annotated[IngressServices, Depends(services_of)]

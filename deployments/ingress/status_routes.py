"""HTTP routes of the page, the server's status and its health."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

import ray
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

import gamegen
from deployments.errors import ApiError
from deployments.ingress.base_path import requested_host
from deployments.ingress.play_routes import errors
from deployments.ingress.services import IngressServices, Services
from gamegen.service.database.retrying import DatabaseAwayError

WEB_FOLDER = Path(__file__).parents[1] / "web"
router = APIRouter(tags=["service"])


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """The page to play on."""
    return FileResponse(WEB_FOLDER / "index.html", headers={"Cache-Control": "no-cache"})


@router.get("/docs", include_in_schema=False)
async def docs() -> FileResponse:
    """The manual of the API."""
    return FileResponse(WEB_FOLDER / "docs.html")


@router.get("/api/v1/status", include_in_schema=False)
@router.get("/v1/status")
async def status(request: Request, services: Services) -> dict[str, Any]:
    """Sessions, pace, queue, what model is served and the versions; where clips are ordered past the proxy."""
    model = await services.model_facts.get()
    return {
        "uptime_s": round(time.time() - services.started_s, 1),
        "sessions": await services.sessions.counts(),
        "pace": services.sessions.paces(),
        "clips": await _clips(services),
        "direct_url": services.direct_server.http_url(requested_host(request)),
        "model": model,
        "versions": {
            "gamegen": gamegen.__version__,
            "ray": ray.__version__,
            "python": platform.python_version(),
        },
    }


@router.get("/healthz", responses=errors(503))
async def healthz(services: Services) -> dict[str, str]:
    """200 when a world could be begun now; 503 with the reason also while the clip service cannot be opened."""
    if failure := services.videos.failure:
        raise failure
    await services.model_facts.ask()
    return {"status": "ok"}


async def _clips(services: IngressServices) -> dict[str, int] | None:
    """Orders that wait and that are worked on; None while the clip service or its database is away."""
    try:
        stats = await services.videos.service.queue_stats()
    except (ApiError, DatabaseAwayError):
        return None
    return {
        "waiting": sum(tier.pending + tier.queued for tier in stats.tiers.values()),
        "worked_on": sum(tier.leased for tier in stats.tiers.values()),
    }

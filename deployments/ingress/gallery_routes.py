"""HTTP routes of the gallery: the recorded starts that worlds can begin from, and their pictures."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from deployments.errors import ApiError
from deployments.ingress.play_routes import errors
from deployments.ingress.schemas import GalleryPage, GalleryStart
from deployments.ingress.services import Services
from gamegen.gallery.gallery import UnknownStartError

router = APIRouter(tags=["play"])
_PICTURE_RESPONSE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/webp": {}}}}
_MAX_AGE_S = 3600
"""Time that browsers keep pictures: a start has the same one until another model is served."""
_CACHED = {"Cache-Control": f"public, max-age={_MAX_AGE_S}"}


@router.get("/v1/gallery", responses=errors(422, 503))
async def list_gallery(
    services: Services,
    request: Request,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> GalleryPage:
    """The recorded starts of the served model; none if it has no gallery."""
    gallery = await services.gallery.get()
    response.headers.update({**_CACHED, "Vary": "X-Forwarded-Prefix"})
    base_path = request.scope["root_path"]
    if gallery is None:
        return GalleryPage(starts=[], total=0, credit=None)
    starts = [
        GalleryStart(
            id=entry.id,
            caption=entry.caption,
            perspective=entry.perspective,
            picture_url=f"{base_path}/v1/gallery/{entry.id}/picture",
        )
        for entry in gallery.entries[offset : offset + limit]
    ]
    return GalleryPage(starts=starts, total=len(gallery.entries), credit=gallery.credit)


@router.get(
    "/v1/gallery/{start_id}/picture",
    response_class=Response,
    responses={**errors(404, 422, 503), **_PICTURE_RESPONSE},
)
async def get_gallery_picture(services: Services, start_id: Annotated[str, Path(max_length=128)]) -> Response:
    """The small picture of a start, a WebP file."""
    gallery = await services.gallery.get()
    try:
        if gallery is None:
            raise UnknownStartError("this model has no gallery: see gallery_starts in /v1/status")
        picture = gallery.pictures[gallery.index(start_id)]
    except UnknownStartError as error:
        raise ApiError(404, "unknown_start", str(error)) from error
    return Response(picture, media_type="image/webp", headers=_CACHED)

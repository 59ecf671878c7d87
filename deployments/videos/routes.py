"""HTTP routes of the clip service.

An application includes `router` and sets `app.state.videos`, a `VideoStartup`; its service answers each request.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, WebSocket
from fastapi.responses import Response, StreamingResponse
from starlette.requests import HTTPConnection

from deployments.errors import ApiError
from deployments.videos.parsing import order_body_schema, parse_order
from deployments.videos.problems import ProblemRoute, problems, request_id_of
from deployments.videos.schemas import (
    Balance,
    DeliveryList,
    Kept,
    NewSecret,
    VideoDeleted,
    VideoList,
    VideoState,
    WebhookDelivery,
)
from deployments.videos.service import VideoService
from deployments.videos.startup import VideoStartup
from gamegen.service.orders.records import Generation

router = APIRouter(route_class=ProblemRoute, tags=["videos"])

Variant = Literal["video", "thumbnail"]
_MAX_OFFSET = 1_000_000
_EVENT_ID_PATTERN = r"^[0-9]{1,18}$"
_CLOSE_CODES = {401: 4401, 404: 4404}
_CLOSE_BUSY = 1013
_SSE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def video_service(connection: HTTPConnection) -> VideoService:
    """The clip service of the application; raises ApiError (503) until it is open."""
    startup: VideoStartup = connection.app.state.videos
    return startup.service


Service = Annotated[VideoService, Depends(video_service)]


async def account_of(request: Request, service: Service) -> str:
    """The account of a request's API key; raises ApiError (401)."""
    return service.account_of(request)


Account = Annotated[str, Depends(account_of)]


async def base_path_of(connection: HTTPConnection) -> str:
    """The path below which the client reaches the application, "" at a host's root."""
    return connection.scope["root_path"]


BasePath = Annotated[str, Depends(base_path_of)]


async def video_of(
    video_id: Annotated[str, Path(max_length=64)], account: Account, service: Service
) -> Generation:
    """The account's video of the path; raises ApiError (404)."""
    return await service.find(video_id, account)


Video = Annotated[Generation, Depends(video_of)]


@router.post("/api/v1/generate", status_code=202, include_in_schema=False)
@router.post(
    "/v1/videos",
    status_code=202,
    responses=problems(400, 401, 402, 409, 413, 415, 422, 429, 451, 503),
    openapi_extra=order_body_schema(),
)
async def create_video(
    request: Request, account: Account, service: Service, base_path: BasePath, response: Response
) -> VideoState:
    """Orders a clip. Repeated requests with the same X-Request-ID and body are one order."""
    request_id = request_id_of(request)
    video = await service.create(await parse_order(request), account, request_id, base_path)
    # Relative, so that it holds below a prefix of which a proxy does not tell.
    depth = request.scope["path"].removeprefix(base_path).count("/") - 1
    response.headers["Location"] = "../" * depth + f"v1/videos/{video.id}"
    return video


@router.get("/api/v1/generate", include_in_schema=False)
@router.get("/v1/videos", responses=problems(401, 404, 422, 503))
async def list_videos(
    account: Account,
    service: Service,
    base_path: BasePath,
    status: Annotated[str | None, Query(max_length=64, description="as in status or state")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, le=_MAX_OFFSET)] = 0,
    after: Annotated[str | None, Query(max_length=64, description="id of the last one seen")] = None,
    order: Literal["asc", "desc"] = "desc",
) -> VideoList:
    """The account's videos, the newest first unless `order` is asc."""
    return await service.list_videos(
        account,
        status=status,
        limit=limit,
        offset=offset,
        after=after,
        is_oldest_first=order == "asc",
        base_path=base_path,
    )


@router.get("/v1/videos/{video_id}", responses=problems(401, 404, 422, 503))
async def get_video(video: Video, service: Service, base_path: BasePath) -> VideoState:
    """A video's state, progress and time left."""
    return service.show(video, base_path)


@router.delete("/v1/videos/{video_id}", responses=problems(401, 404, 409, 422, 503))
async def cancel_video(
    video: Video,
    service: Service,
    files: Annotated[bool, Query(description="of a video that has ended, remove the files")] = False,
) -> VideoDeleted:
    """Cancels a video that has not ended; the credits of what was not drawn are returned."""
    return await (service.remove_files(video) if files else service.cancel(video))


@router.post("/v1/videos/{video_id}/keep", responses=problems(400, 401, 404, 415, 422, 503))
async def keep_video(
    video: Video,
    service: Service,
    base_path: BasePath,
    wish: Kept = Kept(),  # noqa: B008
) -> VideoState:
    """Exempts a video's files from expiry, or no longer."""
    return await service.keep(video, wish.kept, base_path)


def _download_responses(*media_types: str) -> dict[int | str, dict[str, Any]]:
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types}
    return {
        **problems(400, 401, 404, 409, 416, 422, 451, 503),
        200: {"description": "the whole file", "content": content},
        206: {"description": "the range", "content": content},
        302: {"description": "the file is in the object store, at Location"},
        304: {"description": "the file still has this ETag"},
    }


_CLIP_RESPONSES = _download_responses("video/mp4", "image/jpeg")
_THUMBNAIL_RESPONSES = _download_responses("image/jpeg")


@router.head(
    "/v1/videos/{video_id}/content",
    response_class=Response,
    operation_id="head_content",
    responses=_CLIP_RESPONSES,
)
@router.get(
    "/v1/videos/{video_id}/content",
    response_class=Response,
    operation_id="get_content",
    responses=_CLIP_RESPONSES,
)
async def content(request: Request, video: Video, service: Service, variant: Variant = "video") -> Response:
    """A finished clip, H.264 in MP4, or a range of its bytes."""
    if variant == "video":
        return await service.downloads.clip(video, request)
    return await service.downloads.thumbnail(video, request)


@router.head(
    "/v1/videos/{video_id}/thumbnail",
    response_class=Response,
    operation_id="head_thumbnail",
    responses=_THUMBNAIL_RESPONSES,
)
@router.get(
    "/v1/videos/{video_id}/thumbnail",
    response_class=Response,
    operation_id="get_thumbnail",
    responses=_THUMBNAIL_RESPONSES,
)
async def thumbnail(request: Request, video: Video, service: Service) -> Response:
    """A finished clip's thumbnail."""
    return await service.downloads.thumbnail(video, request)


@router.get(
    "/v1/videos/{video_id}/stream",
    response_class=Response,
    responses={
        **problems(401, 404, 422, 503),
        200: {
            "description": "progress, phase_change, completed, error",
            "content": {"text/event-stream": {}},
        },
        204: {"description": "all events were sent: do not reconnect"},
    },
)
async def stream_video(
    video: Video,
    service: Service,
    base_path: BasePath,
    last_event_id: Annotated[str | None, Header(pattern=_EVENT_ID_PATTERN)] = None,
) -> Response:
    """A video's events as server-sent events; `Last-Event-ID` continues after an event."""
    last_id = int(last_event_id or 0)
    if await service.streams.has_ended(video, last_id):
        return Response(status_code=204)
    service.streams.check_limit()
    events = service.streams.server_sent_events(video, last_id, base_path)
    return StreamingResponse(events, headers=_SSE_HEADERS, media_type="text/event-stream")


@router.websocket("/v1/videos/{video_id}/progress")
async def watch_video(socket: WebSocket, video_id: str) -> None:
    """A video's events on a WebSocket, from the beginning."""
    await socket.accept()
    try:
        service = await video_service(socket)
        video = await service.find(video_id, service.account_of(socket))
        service.streams.check_limit()
    except ApiError as error:
        await socket.close(_CLOSE_CODES.get(error.status, _CLOSE_BUSY), error.code)
        return
    await service.streams.send_to_socket(video, socket)


@router.get("/v1/videos/{video_id}/deliveries", tags=["webhooks"], responses=problems(401, 404, 422, 503))
async def list_deliveries(video: Video, service: Service) -> DeliveryList:
    """The webhook messages about a video and their deliveries."""
    return DeliveryList(data=await service.deliveries(video))


@router.post(
    "/v1/webhooks/deliveries/{delivery_id}/redeliver",
    status_code=202,
    tags=["webhooks"],
    responses=problems(401, 404, 422, 503),
)
async def redeliver(delivery_id: str, account: Account, service: Service) -> WebhookDelivery:
    """Sends a webhook message again."""
    return await service.redeliver(delivery_id, account)


@router.post("/v1/webhooks/secret", status_code=201, tags=["webhooks"], responses=problems(401, 503))
async def rotate_secret(account: Account, service: Service) -> NewSecret:
    """A new secret for signing webhook messages; the previous one stays valid for a while."""
    return NewSecret(secret=await service.rotate_secret(account))


@router.get("/v1/credits", tags=["credits"], responses=problems(401, 503))
async def get_credits(account: Account, service: Service) -> Balance:
    """The account's credits."""
    return await service.balance(account)

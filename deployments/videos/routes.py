"""The clip service's addresses, mounted by `mount_videos(app, ...)`.

They find their service when they are asked for something: the application that they are part of may travel to another
process first. Annotations are not postponed: FastAPI could not look up those that only `_video_router` knows.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, WebSocket
from fastapi.responses import Response, StreamingResponse

from deployments.errors import ApiError
from deployments.videos.account_routes import add_account_routes
from deployments.videos.api import VideoApi
from deployments.videos.content import answer, clip_file, thumbnail_file
from deployments.videos.problems import ProblemRoute, problems, request_id_of
from deployments.videos.reading import described_body, read_order
from deployments.videos.schemas import Kept, NewVideo, VideoDeleted, VideoList, VideoState
from deployments.videos.watching import sse, tell_socket
from gamegen.videos.records import Generation
from gamegen.videos.states import FINAL

Variant = Literal["video", "thumbnail"]
_MAX_OFFSET = 1_000_000
_EVENT_ID = r"^[0-9]{1,18}$"
_CLOSE_CODES = {401: 4401, 404: 4404}
_CLOSE_BUSY = 1013
_SSE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def mount_videos(
    app: FastAPI, api: Callable[[], VideoApi], route_class: type[ProblemRoute] = ProblemRoute
) -> None:
    """Adds all routes to an application; `api` gives the service, and is called for each request.

    Take `EchoingRoute` where nobody else gives answers their X-Request-ID.
    """
    # What `include_router` makes of a router holds a lock, and could not be sent to a replica.
    app.router.routes.extend(_video_router(api, route_class).routes)


def _video_router(api: Callable[[], VideoApi], route_class: type[ProblemRoute]) -> APIRouter:
    router = APIRouter(route_class=route_class, tags=["videos"])

    async def account_of(request: Request) -> str:
        return api().account_of(request)

    Account = Annotated[str, Depends(account_of)]

    async def found(video_id: Annotated[str, Path(max_length=64)], account: Account) -> Generation:
        return await api().find(video_id, account)

    Found = Annotated[Generation, Depends(found)]

    @router.post(
        "/v1/videos",
        status_code=202,
        responses=problems(400, 401, 402, 409, 413, 422, 429, 451, 503),
        openapi_extra=described_body(NewVideo),
    )
    async def create_video(request: Request, account: Account, response: Response) -> VideoState:
        """Orders a clip. The same X-Request-ID and body is the same order, however often it is sent."""
        request_id = request_id_of(request)
        video = await api().create(await read_order(request), account, request_id)
        response.headers["Location"] = f"/v1/videos/{video.id}"
        return video

    @router.get("/v1/videos", responses=problems(401, 404, 422, 503))
    async def list_videos(
        account: Account,
        status: Annotated[str | None, Query(max_length=64, description="as in status or state")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        offset: Annotated[int, Query(ge=0, le=_MAX_OFFSET)] = 0,
        after: Annotated[str | None, Query(max_length=64, description="id of the last one seen")] = None,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoList:
        """The account's videos, the newest first unless `order` is asc."""
        return await api().listed(account, status, limit, offset, after, order)

    @router.get("/v1/videos/{video_id}", responses=problems(401, 404, 422, 503))
    async def get_video(video: Found) -> VideoState:
        """A video's state, progress and time left."""
        return api().show(video)

    @router.delete("/v1/videos/{video_id}", responses=problems(401, 404, 409, 422, 503))
    async def cancel_video(
        video: Found,
        files: Annotated[bool, Query(description="of a video that has ended, remove the files")] = False,
    ) -> VideoDeleted:
        """Cancels a video that has not ended; what was not drawn is paid back."""
        return await api().cancel(video, files)

    @router.post("/v1/videos/{video_id}/keep", responses=problems(400, 401, 404, 422, 503))
    async def keep_video(video: Found, wish: Kept = Kept()) -> VideoState:  # noqa: B008
        """Has a video's files stay beyond their time, or no longer."""
        return await api().keep(video, wish.kept)

    async def content(request: Request, video: Found, variant: Variant = "video") -> Response:
        """A finished clip: H.264 in MP4; ranges of it too."""
        file = clip_file(video) if variant == "video" else await thumbnail_file(api().service, video)
        return await answer(api().service, file, request)

    async def thumbnail(request: Request, video: Found) -> Response:
        """A finished clip's small picture."""
        return await answer(api().service, await thumbnail_file(api().service, video), request)

    for path, handler, kinds in (
        ("content", content, ("video/mp4", "image/jpeg")),
        ("thumbnail", thumbnail, ("image/jpeg",)),
    ):
        for method in ("GET", "HEAD"):
            router.add_api_route(
                f"/v1/videos/{{video_id}}/{path}",
                handler,
                methods=[method],
                response_class=Response,
                operation_id=f"{method.lower()}_{path}",
                responses=_file_answers(kinds),
            )

    @router.get(
        "/v1/videos/{video_id}/stream",
        response_class=Response,
        responses={
            **problems(401, 404, 422, 503),
            200: {
                "description": "progress, phase_change, completed, error",
                "content": {"text/event-stream": {}},
            },
            204: {"description": "everything was told: do not come back"},
        },
    )
    async def stream_video(
        video: Found,
        last_event_id: Annotated[str | None, Header(pattern=_EVENT_ID)] = None,
    ) -> Response:
        """What happens to a video, as server-sent events; `Last-Event-ID` goes on after an event."""
        service, last_id = api().service, int(last_event_id or 0)
        if video.state in FINAL and not await service.queue.events_after(video.id, last_id):
            return Response(status_code=204)
        api().streams.check()
        events = sse(service, api().streams, video, last_id)
        return StreamingResponse(events, headers=_SSE_HEADERS, media_type="text/event-stream")

    @router.websocket("/v1/videos/{video_id}/progress")
    async def watch_video(socket: WebSocket, video_id: str) -> None:
        """The same on a WebSocket, from the beginning."""
        await socket.accept()
        try:
            video = await api().find(video_id, api().account_of(socket))
            api().streams.check()
        except ApiError as error:
            await socket.close(_CLOSE_CODES.get(error.status, _CLOSE_BUSY), error.code)
            return
        await tell_socket(api().service, api().streams, video, socket)

    add_account_routes(router, api, Account, Found)
    return router


def _file_answers(kinds: tuple[str, ...]) -> dict[int | str, dict[str, Any]]:
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}
    return {
        **problems(400, 401, 404, 409, 416, 422, 451, 503),
        200: {"description": "all of it", "content": content},
        206: {"description": "the range", "content": content},
        302: {"description": "it is to be had from the object store, at Location"},
        304: {"description": "it has not changed since it was given this ETag"},
    }

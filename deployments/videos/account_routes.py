"""What an account has besides its videos: webhook messages, the secret that signs them, and credits."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from deployments.videos.api import VideoApi
from deployments.videos.problems import problems
from deployments.videos.schemas import Balance, DeliveryList, DeliveryState, NewSecret


def add_account_routes(
    router: APIRouter, api: Callable[[], VideoApi], account_type: Any, found_type: Any
) -> None:
    """Adds them; the types are those of a parameter that is the account, or a video of its."""

    @router.get("/v1/videos/{video_id}/deliveries", tags=["webhooks"], responses=problems(401, 404, 422, 503))
    async def list_deliveries(video: found_type) -> DeliveryList:
        """The webhook messages about a video, and what became of them."""
        return DeliveryList(data=await api().deliveries(video))

    @router.post(
        "/v1/webhooks/deliveries/{delivery_id}/redeliver",
        status_code=202,
        tags=["webhooks"],
        responses=problems(401, 404, 422, 503),
    )
    async def redeliver(delivery_id: str, account: account_type) -> DeliveryState:
        """Has a webhook message sent again."""
        return await api().redeliver(delivery_id, account)

    @router.post("/v1/webhooks/secret", status_code=201, tags=["webhooks"], responses=problems(401, 503))
    async def rotate_secret(account: account_type) -> NewSecret:
        """A new secret for signing webhook messages; the one before stays good for a while."""
        return NewSecret(secret=await api().service.rotate_secret(account))

    @router.get("/v1/credits", tags=["credits"], responses=problems(401, 503))
    async def get_credits(account: account_type) -> Balance:
        """What the account can spend."""
        return Balance(account=account, credits=await api().service.queue.balance(account) / 1000)

"""Deliveries from the database to a receiver, whatever comes in between."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from sqlalchemy import text
from standardwebhooks import Webhook

from gamegen.service.webhooks.deliveries import Deliveries, Delivery, DeliveryState, UnknownDeliveryError
from gamegen.service.webhooks.secret_box import SecretBox
from gamegen.service.webhooks.sender import WebhookSender
from gamegen.service.webhooks.settings import WebhookSettings
from gamegen.service.webhooks.signing import SigningSecrets
from gamegen.service.webhooks.webhook_client import AttemptResult, WebhookClient
from gamegen.storage.store_keys import StoreKeys
from tests.service.webhooks.conftest import here, write_delivery
from tests.service.webhooks.receiver import Receiver, status


@asynccontextmanager
async def sending(
    engine, settings: WebhookSettings, secret_box: SecretBox | None = None
) -> AsyncIterator[WebhookSender]:
    """A running sender, which ends in good order."""
    sender = WebhookSender(
        engine, settings, secret_box or SecretBox(None), WebhookClient(settings.urls, settings.limits, here)
    )
    task = asyncio.create_task(sender.run())
    yield sender
    sender.stop()
    async with asyncio.timeout(20):
        await task


async def delivery(engine, settings, is_so: Callable[[Delivery], bool] = lambda _: True) -> Delivery:
    """The one message about the order, as soon as it is so."""
    async with asyncio.timeout(20):
        while True:
            (found,) = await Deliveries(engine, settings.retries).of("video_1", "ada")
            if is_so(found):
                return found
            await asyncio.sleep(0.01)


def is_ended(delivery: Delivery) -> bool:
    return delivery.state is not DeliveryState.PENDING


async def test_a_message_is_signed_and_arrives(engine, receiver, settings) -> None:
    async with sending(engine, settings):
        await write_delivery(engine, receiver.url())
        (request,) = await receiver.has(1)
        done = await delivery(engine, settings, is_ended)
    (secret,) = await SigningSecrets(engine, settings.rotation, SecretBox(None)).of("ada")
    assert Webhook(secret.text).verify(request.body, request.headers) == json.loads(request.body)
    message = json.loads(request.body)
    assert (message["type"], message["timestamp"]) == ("video.completed", "2026-01-02T00:00:00+00:00")
    data = message["data"]
    assert (data["id"], data["prompt"], data["size"]) == ("video_1", "snow — Schnee", "160x96")
    assert data["content_url"] == "/v1/videos/video_1/content"
    assert request.headers["webhook-id"] == "msg_1"
    assert (done.state, done.attempts, done.status, done.error) == (DeliveryState.DELIVERED, 1, 204, None)
    assert done.delivered_at and done.next_attempt_at is None


async def test_while_a_secret_is_replaced_both_receivers_accept(engine, receiver, settings) -> None:
    secrets = SigningSecrets(engine, settings.rotation, SecretBox(None))
    (old,) = await secrets.of("ada")
    new = await secrets.rotate("ada")
    async with sending(engine, settings):
        await write_delivery(engine, receiver.url())
        (request,) = await receiver.has(1)
    assert len(request.headers["webhook-signature"].split()) == 2
    for secret in (old, new):
        Webhook(secret.text).verify(request.body, request.headers)


async def test_what_fails_is_tried_again_until_it_arrives(engine, receiver, settings) -> None:
    receiver.answers(status(500), status(302, "location: /elsewhere"))
    async with sending(engine, settings):
        await write_delivery(engine, receiver.url())
        requests = await receiver.has(3)
        done = await delivery(engine, settings, is_ended)
    assert (done.state, done.attempts, done.status, done.error) == (DeliveryState.DELIVERED, 3, 204, None)
    assert {request.headers["webhook-id"] for request in requests} == {"msg_1"}
    assert {request.line for request in requests} == {"POST /hook HTTP/1.1"}


async def test_after_the_last_attempt_it_is_given_up_and_can_be_sent_again(
    engine, receiver, settings
) -> None:
    receiver.answers(*[status(500)] * 3)
    deliveries = Deliveries(engine, settings.retries)
    async with sending(engine, settings):
        await write_delivery(engine, receiver.url())
        lost = await delivery(engine, settings, is_ended)
        assert (lost.state, lost.attempts, lost.status, lost.error) == ("failed", 3, 500, "answered 500")
        with pytest.raises(UnknownDeliveryError, match="'msg_1'"):
            await deliveries.redeliver("msg_1", "ben")
        again = await deliveries.redeliver("msg_1", "ada")
        assert (again.state, again.attempts) == (DeliveryState.PENDING, 0)
        await receiver.has(4)
        done = await delivery(engine, settings, is_ended)
        assert (done.state, done.attempts) == (DeliveryState.DELIVERED, 1)
        # Also one that has arrived.
        await deliveries.redeliver("msg_1", "ada")
        await receiver.has(5)
    assert {request.headers["webhook-id"] for request in receiver.requests} == {"msg_1"}


async def test_a_receiver_that_is_gone_is_left_alone(engine, receiver, settings) -> None:
    receiver.answers(status(410))
    async with sending(engine, settings):
        await write_delivery(engine, receiver.url())
        done = await delivery(engine, settings, is_ended)
    assert (done.state, done.attempts, done.status) == (DeliveryState.FAILED, 1, 410)


async def test_a_private_address_is_refused_when_it_is_sent(engine, receiver, settings) -> None:
    strict = replace(settings, urls=replace(settings.urls, allow_private_addresses=False))
    async with sending(engine, strict):
        await write_delivery(engine, receiver.url())
        done = await delivery(engine, settings, is_ended)
    assert done.state is DeliveryState.FAILED and "not public" in done.error
    assert not receiver.connections


async def test_a_secret_that_cannot_be_read_is_an_attempt_in_vain(engine, receiver, settings) -> None:
    await SigningSecrets(engine, settings.rotation, SecretBox(StoreKeys(bytes(32)))).of("ada")
    async with sending(engine, settings):
        await write_delivery(engine, receiver.url())
        done = await delivery(engine, settings, is_ended)
    assert done.error == "this server cannot read the account's signing secret"
    assert not receiver.connections


async def test_two_senders_share_and_send_nothing_twice(engine, receiver, settings) -> None:
    for number in range(40):
        await write_delivery(engine, receiver.url(), f"msg_{number}", f"account {number % 3}")
    async with sending(engine, settings), sending(engine, settings):
        await receiver.has(40)
    assert sorted(request.headers["webhook-id"] for request in receiver.requests) == sorted(
        f"msg_{number}" for number in range(40)
    )


async def test_a_slow_receiver_does_not_hold_up_other_accounts(engine, receiver, settings) -> None:
    is_over = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        await is_over.wait()
        await status(204)(writer)

    few = replace(settings, concurrency=4, per_account=2)
    receiver.answers(slow, slow)
    for number in range(8):
        await write_delivery(engine, receiver.url(), f"slow_{number}", "ada")
    async with sending(engine, few):
        await receiver.has(2)
        await write_delivery(engine, receiver.url(), "quick", "ben")
        requests = await receiver.has(3)
        assert requests[2].headers["webhook-id"] == "quick"
        is_over.set()
        await receiver.has(9)


async def test_of_two_who_ask_at_once_one_has_it_and_only_that_one_settles(engine, settings) -> None:
    deliveries = Deliveries(engine, settings.retries)
    await write_delivery(engine, "https://hooks.test/")
    claims = await asyncio.gather(*(deliveries.claim(10, 10, 60) for _ in range(4)))
    (claim,) = [claim for of_one in claims for claim in of_one]
    assert await deliveries.redeliver("msg_1", "ada") == await delivery(engine, settings)
    assert not await deliveries.claim(10, 10, 60)
    # Its lease ends, and another takes it: what the first one says is too late.
    await _end_leases(engine)
    (second,) = await deliveries.claim(10, 10, 60)
    assert await deliveries.settle(claim, AttemptResult(500, "answered 500")) is None
    assert (await delivery(engine, settings)).error is None
    assert await deliveries.settle(second, AttemptResult(204)) is DeliveryState.DELIVERED
    assert await deliveries.settle(second, AttemptResult(204)) is None
    assert (await delivery(engine, settings)).attempts == 2


async def test_a_message_that_kills_its_senders_is_given_up(engine, settings) -> None:
    deliveries = Deliveries(engine, settings.retries)
    await write_delivery(engine, "https://hooks.test/")
    for _ in range(settings.retries.attempts):
        assert await deliveries.claim(10, 10, 60)
        await _end_leases(engine)
    assert not await deliveries.claim(10, 10, 60)
    lost = await delivery(engine, settings)
    assert lost.state is DeliveryState.FAILED and "the sender died" in lost.error


async def test_another_sender_takes_over_from_one_that_is_killed(
    engine, receiver: Receiver, settings, certificates
) -> None:
    async def never(_writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    receiver.answers(never)
    await write_delivery(engine, receiver.url("localhost"))
    url = engine.url.set(drivername="postgresql").render_as_string(False)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.service.webhooks.lone_sender", url, str(certificates / "authority.pem")
    )
    await receiver.has(1)
    process.kill()
    await process.wait()
    left = await delivery(engine, settings)
    assert left.state is DeliveryState.PENDING
    # The row itself says when it is due again: nobody has to notice the loss.
    async with sending(engine, settings):
        await receiver.has(2)
        done = await delivery(engine, settings, is_ended)
    assert (done.state, done.attempts) == (DeliveryState.DELIVERED, left.attempts + 1)


async def test_a_broken_connection_to_the_database_is_made_again(engine, receiver, settings) -> None:
    async with sending(engine, settings):
        await write_delivery(engine, receiver.url())
        await receiver.has(1)
        await delivery(engine, settings, is_ended)
        async with engine.begin() as connection:
            await connection.execute(
                text(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid()"
                )
            )
        await write_delivery(engine, receiver.url(), "msg_2", "ben")
        requests = await receiver.has(2)
    assert requests[1].headers["webhook-id"] == "msg_2"


async def test_a_sender_that_is_told_to_stop_ends_what_it_has_begun(engine, receiver, settings) -> None:
    is_over = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        await is_over.wait()
        await status(204)(writer)

    receiver.answers(slow)
    async with sending(engine, settings) as sender:
        await write_delivery(engine, receiver.url())
        await receiver.has(1)
        sender.stop()
        await write_delivery(engine, receiver.url(), "msg_2", "ben")
        is_over.set()
    assert (await delivery(engine, settings)).state is DeliveryState.DELIVERED
    assert len(receiver.requests) == 1


def test_waits_grow_and_are_bounded() -> None:
    retries = WebhookSettings().retries
    for attempts in range(1, 100):
        longest = min(5 * 4.0 ** (attempts - 1), 12 * 3600)
        assert longest / 2 <= retries.wait_s(attempts, 0) <= longest
    assert retries.wait_s(1, 60) == 60
    assert retries.wait_s(1, 999_999) == 12 * 3600


async def _end_leases(engine) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text("update webhook_deliveries set lease_until = now(), next_attempt_at = now()")
        )

"""One request: whom it reaches, and what a receiver can do to it."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import httpcore
import pytest

from gamegen.service.webhooks.settings import RequestLimits, UrlRules, WebhookSettings
from gamegen.service.webhooks.webhook_client import AttemptResult, WebhookClient
from tests.service.webhooks.conftest import here
from tests.service.webhooks.receiver import status

PUBLIC = "8.8.8.8"
IMPATIENT_S = 0.5


class NoNetwork(httpcore.AsyncNetworkBackend):
    """A network that reaches nobody and remembers who was called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    async def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        self.called.append(host)
        raise httpcore.ConnectError("nobody is there")


def client_to(settings: WebhookSettings, **changes) -> WebhookClient:
    return WebhookClient(settings.urls, replace(settings.limits, **changes), here)


def strict_client(settings: WebhookSettings, *answers: list[str]) -> tuple[WebhookClient, NoNetwork]:
    """A client of the usual rules, but for ports; names resolve to each of `answers` in turn, then to the last."""
    turns = itertools.chain(answers, itertools.repeat(answers[-1]))

    async def resolve(_host: str, _port: int) -> list[str]:
        return next(turns)

    network = NoNetwork()
    return WebhookClient(UrlRules(ports=()), settings.limits, resolve, network), network


async def test_a_request_reaches_the_name_through_the_address_it_stands_for(receiver, settings) -> None:
    answer = await client_to(settings).post(
        receiver.url(path="/hook?a=1"), {"webhook-id": "msg_1"}, b'{"a":1}'
    )
    assert answer == AttemptResult(204) and answer.is_delivered
    (request,) = receiver.requests
    assert request.line == "POST /hook?a=1 HTTP/1.1"
    assert request.headers["host"] == f"hooks.test:{receiver.port}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == "msg_1"
    assert request.body == b'{"a":1}'
    assert receiver.server_names == ["hooks.test"]


async def test_a_certificate_of_another_name_or_authority_is_refused(receiver, settings) -> None:
    other_name = await client_to(settings).post(receiver.url("other.test"), {}, b"{}")
    assert not other_name.is_delivered and "hostname" in other_name.error.lower()
    unknown = await WebhookClient(settings.urls, RequestLimits(), here).post(receiver.url(), {}, b"{}")
    assert not unknown.is_delivered and "CERTIFICATE_VERIFY_FAILED" in unknown.error
    assert not receiver.requests


async def test_no_proxy_of_the_environment_is_used(receiver, settings, monkeypatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await client_to(settings).post(receiver.url(), {}, b"{}")).is_delivered


@pytest.mark.parametrize("code", [301, 302, 307, 308])
async def test_redirects_are_not_followed(receiver, settings, code) -> None:
    receiver.answers(status(code, f"location: {receiver.url(path='/elsewhere')}"))
    answer = await client_to(settings).post(receiver.url(), {}, b"{}")
    assert answer.status == code and "redirects are not followed" in answer.error
    assert len(receiver.requests) == 1


async def test_an_answer_says_whether_and_when_to_try_again(receiver, settings) -> None:
    receiver.answers(
        status(500), status(503, "retry-after: 7"), status(429, "retry-after: " + "9" * 400), status(410)
    )
    answers = [await client_to(settings).post(receiver.url(), {}, b"{}") for _ in range(4)]
    assert [answer.status for answer in answers] == [500, 503, 429, 410]
    assert [answer.wait_s for answer in answers] == [0, 7, 0, 0]
    assert [answer.is_final for answer in answers] == [False, False, False, True]


async def test_an_endless_body_is_not_read(receiver, settings) -> None:
    is_cut_off = asyncio.Event()

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
        except ConnectionError:
            is_cut_off.set()

    receiver.answers(endless)
    assert (await client_to(settings).post(receiver.url(), {}, b"{}")).is_delivered
    async with asyncio.timeout(10):
        await is_cut_off.wait()


async def test_an_endless_head_is_cut_off(receiver, settings) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x-more: " + b"x" * 1000 + b"\r\n")
            await writer.drain()

    receiver.answers(endless)
    answer = await client_to(settings).post(receiver.url(), {}, b"{}")
    assert not answer.is_delivered and "RemoteProtocolError" in answer.error


async def test_a_slow_answer_is_cut_off_however_alive_it_seems(receiver, settings) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nx: ")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    receiver.answers(drip)
    answer = await client_to(settings, attempt_s=IMPATIENT_S).post(receiver.url(), {}, b"{}")
    assert answer == AttemptResult(error=f"no answer within {IMPATIENT_S:g} s")


async def test_informational_answers_do_not_go_on_for_ever(receiver, settings) -> None:
    async def early_hints(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)

    receiver.answers(early_hints)
    answer = await client_to(settings, attempt_s=IMPATIENT_S).post(receiver.url(), {}, b"{}")
    assert answer.error == f"no answer within {IMPATIENT_S:g} s"


async def test_a_name_that_nobody_answers_for_is_cut_off(settings) -> None:
    async def never(_host: str, _port: int) -> list[str]:
        return await asyncio.Future()

    limits = replace(settings.limits, attempt_s=IMPATIENT_S)
    answer = await WebhookClient(UrlRules(), limits, never).post("https://hooks.test/", {}, b"{}")
    assert answer.error == f"no answer within {IMPATIENT_S:g} s"


async def test_what_is_no_http_at_all_is_an_error(receiver, settings) -> None:
    async def nonsense(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + b"\x00\xff\n" * 1000 + b"\r\n\r\n")

    async def silence(_writer: asyncio.StreamWriter) -> None:
        pass

    receiver.answers(nonsense, silence)
    for _ in range(2):
        answer = await client_to(settings).post(receiver.url(), {}, b"{}")
        assert answer.status is None and "RemoteProtocolError" in answer.error
        assert answer.error.isprintable() and len(answer.error) <= 300


async def test_a_message_that_is_too_large_is_not_sent(receiver, settings) -> None:
    answer = await client_to(settings, max_body_bytes=1024).post(receiver.url(), {}, b"x" * 1025)
    assert answer.is_final and "1025 bytes, the limit is 1024" in answer.error
    assert not receiver.connections


async def test_nobody_at_the_port_is_an_error(receiver, settings, unused_tcp_port) -> None:
    answer = await client_to(settings).post(f"https://hooks.test:{unused_tcp_port}/", {}, b"{}")
    assert not answer.is_delivered and answer.status is None


async def test_every_address_of_a_name_is_tried(settings) -> None:
    client, network = strict_client(settings, [PUBLIC, "1.1.1.1"])
    assert "nobody is there" in (await client.post("https://hooks.test/", {}, b"{}")).error
    assert network.called == [PUBLIC, "1.1.1.1"]


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        [PUBLIC, "127.0.0.1"],
        [PUBLIC, "1.1.1.1", "8.8.4.4", "9.9.9.9", "127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["169.254.169.254"],
    ],
)
async def test_one_address_that_is_not_public_refuses_the_name(receiver, settings, addresses) -> None:
    client, network = strict_client(settings, addresses)
    answer = await client.post(receiver.url(), {}, b"{}")
    assert answer.error == "hooks.test has an address that is not public: use a public host"
    assert not network.called and not receiver.connections


async def test_a_name_that_changes_its_address_never_reaches_a_private_one(receiver, settings) -> None:
    client, network = strict_client(settings, [PUBLIC], ["127.0.0.1"])
    # Judged when it is public, and called there: it is not resolved a second time.
    assert "nobody is there" in (await client.post(receiver.url(), {}, b"{}")).error
    assert network.called == [PUBLIC]
    assert "not public" in (await client.post(receiver.url(), {}, b"{}")).error
    assert network.called == [PUBLIC] and not receiver.connections


async def test_the_systems_names_are_judged_too(receiver, settings) -> None:
    rules = UrlRules(ports=())
    for host in ("localhost.localdomain", "ip6-localhost", "127.0.0.1", "localhost"):
        answer = await WebhookClient(rules, settings.limits).post(receiver.url(host), {}, b"{}")
        assert answer.error
    assert not receiver.connections
    # The same name and port answers where private addresses are allowed.
    assert (
        await WebhookClient(settings.urls, settings.limits).post(receiver.url("localhost"), {}, b"{}")
    ).status == 204

"""SigningSecrets and signatures, verified by the Standard Webhooks library."""

from __future__ import annotations

import asyncio
import base64
import os
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text
from standardwebhooks import Webhook, WebhookVerificationError

from gamegen.service.database.tables import webhook_secrets
from gamegen.service.webhooks.secret_box import SecretBox, UnreadableSecretError
from gamegen.service.webhooks.settings import RotationSettings
from gamegen.service.webhooks.signing import SigningSecrets, signed_headers
from gamegen.storage.store_keys import KEY_VARIABLE, StoreKeys

KEY = bytes(range(32))
BODY = '{"data":"snow — Schnee"}'


def secrets_of(engine, secret_box: SecretBox | None = None, **settings) -> SigningSecrets:
    return SigningSecrets(engine, RotationSettings(**settings), secret_box or SecretBox(None))


async def stored(engine) -> list[str]:
    async with engine.connect() as connection:
        return list(await connection.scalars(select(webhook_secrets.c.secret)))


async def later(engine, seconds: float) -> None:
    """Lets an account's secrets grow older."""
    async with engine.begin() as connection:
        await connection.execute(
            text("update webhook_secrets set expires_at = expires_at - make_interval(secs => :s)"),
            {"s": seconds},
        )


async def test_an_account_has_a_secret_as_soon_as_it_is_asked_for(engine) -> None:
    secrets = secrets_of(engine)
    found = await asyncio.gather(*(secrets.of("ada") for _ in range(5)))
    assert len({secret.text for of_one in found for secret in of_one}) == 1
    assert len(base64.b64decode(found[0][0].text.removeprefix("whsec_"))) == 32
    assert (await secrets.of("ben"))[0].text != found[0][0].text
    assert found[0][0].text not in repr(found[0][0])


async def test_while_a_secret_is_replaced_both_verify(engine) -> None:
    secrets = secrets_of(engine, overlap_s=100)
    (old,) = await secrets.of("ada")
    new = await secrets.rotate("ada")
    both = [secret.text for secret in await secrets.of("ada")]
    assert both == [new.text, old.text]
    headers = signed_headers(both, "msg_1", datetime.now(UTC), BODY)
    for secret in both:
        assert Webhook(secret).verify(BODY, headers) == {"data": "snow — Schnee"}
    await later(engine, 101)
    assert [secret.text for secret in await secrets.of("ada")] == [new.text]


async def test_a_secret_that_leaked_signs_no_more(engine) -> None:
    secrets = secrets_of(engine)
    await secrets.of("ada")
    new = await secrets.rotate("ada", overlap_s=0)
    assert [secret.text for secret in await secrets.of("ada")] == [new.text]
    assert len(await stored(engine)) == 1


async def test_rotation_is_bounded(engine) -> None:
    secrets = secrets_of(engine, most_secrets=3, overlap_s=100)
    made = [(await secrets.rotate("ada")).text for _ in range(5)]
    assert [secret.text for secret in await secrets.of("ada")] == made[:1:-1]
    with pytest.raises(ValueError, match="must be 0 to 100 seconds"):
        await secrets.rotate("ada", overlap_s=101)
    # An old secret's end is not put off by the next rotation.
    ends = [secret.expires_at for secret in await secrets.of("ada")]
    assert ends[0] is None and ends[1] > ends[2]


async def test_what_is_signed_cannot_be_changed(engine) -> None:
    secret = (await secrets_of(engine).rotate("ada")).text
    headers = signed_headers([secret], "msg_1", datetime.now(UTC), BODY)
    Webhook(secret).verify(BODY, headers)
    other = (await secrets_of(engine).rotate("ben")).text
    for wrong in (
        lambda: Webhook(secret).verify(BODY + " ", headers),
        lambda: Webhook(secret).verify(BODY, {**headers, "webhook-id": "msg_2"}),
        lambda: Webhook(other).verify(BODY, headers),
        lambda: Webhook(secret).verify(
            BODY, signed_headers([secret], "msg_1", datetime.now(UTC) - timedelta(minutes=6), BODY)
        ),
    ):
        with pytest.raises(WebhookVerificationError):
            wrong()


async def test_secrets_are_sealed_where_there_is_a_key(engine, monkeypatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(KEY).decode())
    sealed = secrets_of(engine, SecretBox.from_environment())
    (secret,) = await sealed.of("ada")
    (row,) = await stored(engine)
    assert row.startswith("sealed1:") and secret.text not in row
    assert (await secrets_of(engine, SecretBox(StoreKeys(KEY))).of("ada"))[0].text == secret.text


async def test_a_key_may_be_given_later(engine) -> None:
    (old,) = await secrets_of(engine).of("ada")
    secrets = secrets_of(engine, SecretBox(StoreKeys(KEY)))
    new = await secrets.rotate("ada")
    assert [secret.text for secret in await secrets.of("ada")] == [new.text, old.text]


async def test_without_its_key_a_sealed_secret_is_an_error_that_says_what_to_do(engine) -> None:
    await secrets_of(engine, SecretBox(StoreKeys(KEY))).of("ada")
    with pytest.raises(UnreadableSecretError, match=f"set {KEY_VARIABLE}"):
        await secrets_of(engine).of("ada")
    with pytest.raises(UnreadableSecretError, match="OLD_KEYS"):
        await secrets_of(engine, SecretBox(StoreKeys(os.urandom(32)))).of("ada")
    # What the message advises.
    new = await secrets_of(engine).rotate("ada", overlap_s=0)
    assert [secret.text for secret in await secrets_of(engine).of("ada")] == [new.text]


def test_a_sealed_text_belongs_to_its_owner() -> None:
    secret_box = SecretBox(StoreKeys(KEY))
    sealed = secret_box.seal("whsec_x", "ada")
    assert secret_box.open(sealed, "ada") == "whsec_x"
    assert secret_box.seal("whsec_x", "ada") != sealed
    for owner, text_ in (("ben", sealed), ("ada", sealed[:-6] + "AAAA=="), ("ada", "sealed1:!")):
        with pytest.raises(UnreadableSecretError):
            secret_box.open(text_, owner)

"""The text encoder client: another replica answers when one dies, and a refusal is not retried."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deployments.clients.retry import RetryPolicy
from deployments.clients.text_encoder_client import (
    TextEncoderClient,
    TextEncoderUnavailableError,
    TextRefusedError,
)
from deployments.replicas.messages import EncodedText, Rejected

POLICY = RetryPolicy(deadline_s=60, max_attempts=4, first_delay_s=0)


class TextEncoders:
    """A deployment whose first `deaths` calls fail; states tell the text's length."""

    def __init__(self, deaths: int = 0) -> None:
        self.calls: list[tuple[str, str | None]] = []
        self._deaths = deaths
        self.encode = SimpleNamespace(remote=self._encode)

    async def _encode(self, text: str, perspective: str | None) -> EncodedText | Rejected:
        self.calls.append((text, perspective))
        if len(self.calls) <= self._deaths:
            raise RuntimeError("the replica died")
        if text == "endless":
            return Rejected("shorten it")
        return EncodedText(np.full((2, 3), len(text), np.float32), np.zeros(3, np.float32))


def client_of(handle: Any) -> TextEncoderClient:
    return TextEncoderClient(handle, POLICY)


async def test_a_text_is_encoded_by_another_replica() -> None:
    encoders = TextEncoders(deaths=3)
    encoded = await client_of(encoders).encode("a forest", "first")
    assert encoded.tokens[0, 0] == len("a forest")
    assert encoders.calls == [("a forest", "first")] * 4


async def test_a_refused_text_is_not_sent_again() -> None:
    encoders = TextEncoders()
    with pytest.raises(TextRefusedError, match="shorten it"):
        await client_of(encoders).encode("endless")
    assert encoders.calls == [("endless", None)]


async def test_an_encoder_that_does_not_answer_is_unavailable_for_a_while() -> None:
    with pytest.raises(TextEncoderUnavailableError, match="retry in a few seconds") as raised:
        await client_of(TextEncoders(deaths=100)).encode("a forest")
    assert raised.value.retry_after_s > 0

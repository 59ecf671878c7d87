"""The client of the text encoder replicas."""

from __future__ import annotations

from ray.serve.handle import DeploymentHandle

from deployments.clients.retry import ReplicaUnavailableError, RetryPolicy
from deployments.replicas.messages import EncodedText, Rejected

INTERACTIVE = RetryPolicy(deadline_s=20.0, max_attempts=5, first_delay_s=0.05)
"""Somebody waits for the answer."""
BACKGROUND = RetryPolicy(deadline_s=60.0, max_attempts=6, first_delay_s=0.2, max_delay_s=5.0)
"""A queued order waits for it."""


class TextEncoderUnavailableError(ReplicaUnavailableError):
    """No text encoder replica has answered by the deadline."""


class TextRefusedError(ValueError):
    """The model cannot take the text; the message says why and what to do."""


class TextEncoderClient:
    """Encodes texts on any of the text encoder replicas, which cache them."""

    def __init__(self, text_encoder: DeploymentHandle, policy: RetryPolicy = INTERACTIVE) -> None:
        self._encode = text_encoder.encode
        self._policy = policy

    async def encode(self, text: str, perspective: str | None = None) -> EncodedText:
        """A text's token states and pooled vector; with `perspective` the text is a world's prompt.

        Raises TextRefusedError for a text of too many tokens, and TextEncoderUnavailableError.
        """

        async def call() -> EncodedText | Rejected:
            return await self._encode.remote(text, perspective)

        try:
            encoded = await self._policy.run(call)
        except ReplicaUnavailableError as error:
            raise TextEncoderUnavailableError(
                "the text encoder is unavailable: retry in a few seconds"
            ) from error
        if isinstance(encoded, Rejected):
            raise TextRefusedError(encoded.message)
        return encoded

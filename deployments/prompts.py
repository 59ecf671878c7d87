"""Encoding of the texts in requests, with errors that clients understand."""

from __future__ import annotations

from deployments.clients.text_encoder_client import (
    TextEncoderClient,
    TextEncoderUnavailableError,
    TextRefusedError,
)
from deployments.errors import ApiError
from deployments.replicas.messages import EncodedText


class PromptEncoder:
    """Encodes texts by the text encoder replicas; refusals and lost replicas become ApiError."""

    def __init__(self, client: TextEncoderClient) -> None:
        self._client = client

    async def encode(self, text: str, perspective: str | None = None, *, field: str = "") -> EncodedText:
        """A text's states; with `perspective` the text is a world's prompt, else an instruction.

        `field` is the request's field in an error message. Raises ApiError (422, 503).
        """
        try:
            return await self._client.encode(text, perspective)
        except TextRefusedError as error:
            field = field or ("instruction.text" if perspective is None else "prompt")
            raise ApiError(422, "prompt_too_long", f"{field}: {error}") from error
        except TextEncoderUnavailableError as error:
            raise ApiError(503, "not_ready", str(error), retry_after_s=error.retry_after_s) from error

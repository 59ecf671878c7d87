"""Text encoder replicas: texts to token states, batched and cached by text."""

from __future__ import annotations

import asyncio

from cachetools import LRUCache
from ray import serve

from deployments.replicas.messages import EncodedText, Rejected
from deployments.settings import TextEncoderSettings


@serve.deployment(name="TextEncoder")
class TextEncoderDeployment:
    """One text encoder; texts that arrive together are encoded in a batch."""

    def __init__(self, model: str, settings: TextEncoderSettings) -> None:
        import torch

        from gamegen.engine.variants import Variant
        from gamegen.models.text import load_text_encoder

        torch.set_num_threads(settings.threads)
        self._encoder = load_text_encoder(Variant.parse(model).config().text_encoder)
        self._encoder.encode(["first-person, warm up"])
        self._cache: LRUCache[str, EncodedText | Rejected] = LRUCache(settings.cached_texts)
        self._encode_batch.set_max_batch_size(settings.max_batch)  # type: ignore[attr-defined]

    async def encode(self, text: str, perspective: str | None = None) -> EncodedText | Rejected:
        """A text's states; with `perspective` it is a world's prompt. Rejects a text of too many tokens."""
        if perspective is not None:
            from gamegen.models.text import compose_prompt

            text = compose_prompt(text, perspective)
        encoded = self._cache.get(text)
        if encoded is None:
            encoded = self._cache[text] = await self._encode_batch(text)
        return encoded

    @serve.batch(batch_wait_timeout_s=0.002)
    async def _encode_batch(self, texts: list[str]) -> list[EncodedText | Rejected]:
        return await asyncio.to_thread(lambda: [self._encode_one(text) for text in texts])

    def _encode_one(self, text: str) -> EncodedText | Rejected:
        # One by one, so that a text that is too long fails alone.
        try:
            states = self._encoder.encode([text])[0]
        except ValueError as error:
            return Rejected(str(error))
        return EncodedText(states.tokens.numpy(), states.pooled.numpy())

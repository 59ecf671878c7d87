"""Words to token states, batched and cached by text."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from ray import serve

from deployments.messages import EncodedText, Refusal
from deployments.settings import TextEncoderSettings


@serve.deployment(name="TextEncoder")
class TextEncoderDeployment:
    """One text encoder; every request waits for a batch of those that arrive together."""

    def __init__(self, model: str, settings: TextEncoderSettings) -> None:
        import torch

        from gamegen.models.text import load_text_encoder
        from gamegen.models.variants import Variant

        torch.set_num_threads(settings.threads)
        self._encoder = load_text_encoder(Variant.parse(model).config().text_encoder)
        self._encoder.encode(["first-person, warm up"])
        self._max_cached = settings.cached_texts
        self._cache: OrderedDict[str, EncodedText | Refusal] = OrderedDict()
        self._encode_batch.set_max_batch_size(settings.max_batch)  # type: ignore[attr-defined]

    async def encode(self, text: str, perspective: str | None = None) -> EncodedText | Refusal:
        """A text's states; with `perspective` it is a world's prompt. Refuses a text of too many tokens."""
        if perspective is not None:
            from gamegen.world import compose_prompt

            text = compose_prompt(text, perspective)
        if text not in self._cache:
            self._cache[text] = await self._encode_batch(text)
        self._cache.move_to_end(text)
        encoded = self._cache[text]
        while len(self._cache) > self._max_cached:
            self._cache.popitem(last=False)
        return encoded

    @serve.batch(batch_wait_timeout_s=0.002)
    async def _encode_batch(self, texts: list[str]) -> list[EncodedText | Refusal]:
        return await asyncio.to_thread(lambda: [self._encode_one(text) for text in texts])

    def _encode_one(self, text: str) -> EncodedText | Refusal:
        # One by one, so that a text that is too long fails alone.
        try:
            states = self._encoder.encode([text])[0]
        except ValueError as error:
            return Refusal(str(error))
        return EncodedText(states.tokens.numpy(), states.pooled.numpy())

"""The ways from those who work on orders to the text encoder and decoder replicas."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import cast

import numpy as np
import torch
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from deployments.messages import EncodedText, Refusal
from gamegen.clips.decode import Window, windows
from gamegen.clips.drawing import Drawing
from gamegen.models.text import TextStates
from gamegen.videos.order import Order

_ATTEMPTS = 6
_FIRST_DELAY_S = 0.2
_TIMEOUT_S = 60.0
_MOST_KEPT = 64


class HandleEncoder:
    """Words to states, by the text encoder replicas."""

    def __init__(self, text_encoder: DeploymentHandle) -> None:
        self._encode = text_encoder.encode
        self._kept: OrderedDict[tuple[str, str | None], TextStates] = OrderedDict()

    async def texts(self, order: Order) -> tuple[TextStates, TextStates | None]:
        """The states of an order's prompt, and of its negative prompt if it has one; raises ValueError."""
        prompt = await self._states(order.prompt, order.perspective)
        return prompt, await self._states(order.negative_prompt, None) if order.negative_prompt else None

    async def _states(self, text: str, perspective: str | None) -> TextStates:
        # Negative prompts are often the same ones, and a call costs more than what it carries.
        if (text, perspective) not in self._kept:
            self._kept[text, perspective] = await self._asked(text, perspective)
        self._kept.move_to_end((text, perspective))
        states = self._kept[text, perspective]
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return states

    async def _asked(self, text: str, perspective: str | None) -> TextStates:
        encoded = await self._encoded(text, perspective)
        if isinstance(encoded, Refusal):
            raise ValueError(encoded.message)
        assert isinstance(encoded, EncodedText)
        # Copied, because arrays that crossed a handle may be read-only views.
        return TextStates(torch.from_numpy(encoded.tokens.copy()), torch.from_numpy(encoded.pooled.copy()))

    async def _encoded(self, text: str, perspective: str | None) -> object:
        for attempt in range(_ATTEMPTS):
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    return await self._encode.remote(text, perspective)
            # Another replica may be there, whatever this one raised as it died.
            except Exception:
                if attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(_FIRST_DELAY_S * 2**attempt)
        raise AssertionError("the last attempt returns or raises")


class HandleDecoder:
    """Latents to frames, by the decoder replicas, window by window: if one dies, another goes on."""

    def __init__(self, decoder: DeploymentHandle) -> None:
        self._decode = decoder.options(stream=True).decode_clip

    async def frames(self, drawing: Drawing) -> AsyncIterator[np.ndarray]:
        """The frames of a finished clip in their order, uint8 `(4, H, W, 3)` for each chunk."""
        for window in windows(drawing.latents, drawing.num_before):
            async for frames in self._of(window):
                yield frames

    async def _of(self, window: Window) -> AsyncIterator[np.ndarray]:
        first = window.first_chunk
        for attempt in range(_ATTEMPTS):
            try:
                async with asyncio.timeout(_TIMEOUT_S * len(window.latents)):
                    pieces = self._decode.remote(window.latents.numpy(), first)
                    async for frames in cast(DeploymentResponseGenerator, pieces):
                        first += 1
                        yield cast(np.ndarray, frames)
                return
            # Whatever a dying replica raises, the answer is the same.
            except Exception:
                if attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(_FIRST_DELAY_S * 2**attempt)

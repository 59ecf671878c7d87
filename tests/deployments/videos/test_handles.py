"""Words and latents find another replica when one dies in the middle."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deployments.messages import EncodedText, Refusal
from deployments.videos import handles
from deployments.videos.handles import HandleDecoder, HandleEncoder
from gamegen.clips.renderer import ClipRenderer
from tests.clips.orders import an_order
from tests.test_world import random_model, words


class Dying:
    """A deployment so many of whose replicas die in the middle of a call."""

    def __init__(self, answer: Any, deaths: int) -> None:
        self.answer, self.deaths = answer, deaths
        self.encode = self.decode_clip = SimpleNamespace(remote=self.remote)

    def options(self, **_: Any) -> Dying:
        return self

    def remote(self, *arguments: Any) -> Any:
        return self.answer(self, *arguments)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "_FIRST_DELAY_S", 0.0)


async def encoded(replicas: Dying, text: str, perspective: str | None) -> EncodedText | Refusal:
    if replicas.deaths:
        replicas.deaths -= 1
        raise RuntimeError("the replica died")
    if text == "endless":
        return Refusal("shorten it")
    return EncodedText(np.full((2, 3), len(text), np.float32), np.zeros(3, np.float32))


async def test_words_are_encoded_by_another_replica() -> None:
    prompt, negative = await HandleEncoder(Dying(encoded, 3)).texts(an_order(negative_prompt="fog"))  # type: ignore[arg-type]
    assert prompt.tokens[0, 0] == len("a forest") and negative and negative.tokens[0, 0] == 3
    with pytest.raises(ValueError, match="shorten it"):
        await HandleEncoder(Dying(encoded, 1)).texts(an_order(prompt="endless"))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="died"):
        await HandleEncoder(Dying(encoded, 100)).texts(an_order())  # type: ignore[arg-type]


async def test_frames_come_once_each_though_replicas_die_between_them() -> None:
    async def decoded(replicas: Dying, latents: np.ndarray, first: int):
        for chunk in range(first, len(latents)):
            if replicas.deaths:
                replicas.deaths -= 1
                yield np.full((4, 1, 1, 3), chunk)
                raise RuntimeError("the replica died")
            yield np.full((4, 1, 1, 3), chunk)

    renderer = ClipRenderer(random_model())
    drawing = renderer.begin(an_order(num_frames=20), words(1))
    while not drawing.is_done:
        renderer.step([drawing])
    frames = [piece async for piece in HandleDecoder(Dying(decoded, 3)).frames(drawing)]  # type: ignore[arg-type]
    assert [piece[0, 0, 0, 0] for piece in frames] == [0, 1, 2, 3, 4]

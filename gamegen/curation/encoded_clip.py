"""An encoded clip as training reads it from its row; how rows are made is in `gamegen/curation/encoded.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.device import autocast
from gamegen.models.model import Model
from gamegen.models.motion_compensation import carry_stream, compensate_stream
from gamegen.models.text import TextStates


@dataclass(frozen=True)
class Segment:
    """From `chunk` on, until the next segment, these prompts describe the scene."""

    chunk: int
    prompts: list[TextStates]


@dataclass(frozen=True)
class EncodedInstruction:
    """An instruction whose effect shows from `chunk` on."""

    chunk: int
    kind: str
    states: TextStates


@dataclass(frozen=True)
class EncodedClip:
    """`latents` float16 `(N, C, h, w)` as the VAE gives them, `operations` float16 `(N, 4, OPERATION_SIZE)`.

    The first segment starts at chunk 0; truth lists have one value a chunk, that of its last frame.
    `video_prompts` are latents, like `latents`, of pictures of the clip's edges or motion; there may be none.
    `compensated`, like `latents`, and `confidence` `(N, 1, h, w)` are the motion-compensated latents and their
    confidence; None where the clip was encoded without one. `carried`, like `latents`, are those of frames that were
    moved for longer (`carry_stream`).
    """

    clip_id: str
    latents: Tensor
    operations: Tensor
    segments: list[Segment]
    instructions: list[EncodedInstruction]
    biome: list[str]
    weather: list[str]
    time_of_day: list[str]
    view: list[str]
    video_prompts: tuple[Tensor, ...] = ()
    compensated: Tensor | None = None
    confidence: Tensor | None = None
    carried: Tensor | None = None

    @property
    def num_chunks(self) -> int:
        """Latent frames in the clip."""
        return len(self.latents)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> EncodedClip:
        """Reads one row of `gamegen.curation.encoded.SCHEMA`."""
        n = row["num_chunks"]
        shape = (n, *row["latent_shape"])
        operations = np.frombuffer(row["operations"], np.float16).reshape(n, FRAMES_PER_CHUNK, -1)
        return cls(
            row["clip_id"],
            _tensor(row["latents"], shape),
            torch.from_numpy(operations.copy()),
            [Segment(s["chunk"], [text_states(p["tokens"]) for p in s["prompts"]]) for s in row["segments"]],
            [
                EncodedInstruction(i["chunk"], i["kind"], text_states(i["states"]["tokens"]))
                for i in row["instructions"]
            ],
            row["biome"],
            row["weather"],
            row["time_of_day"],
            row["view"],
            # Shards written before there were video prompts or motion have no such columns.
            tuple(_tensor(v["latents"], shape) for v in row.get("video_prompts") or ()),
            _tensor_or_none(row.get("compensated"), shape),
            _tensor_or_none(row.get("confidence"), (n, 1, *shape[2:])),
            _tensor_or_none(row.get("carried"), shape),
        )


@torch.inference_mode()
def compensated_columns(model: Model, frames: np.ndarray, operations: np.ndarray) -> dict[str, bytes]:
    """The columns of a clip's motion-compensated latents, their confidence, and those of frames moved for longer."""
    shown = frames[: len(operations) * FRAMES_PER_CHUNK]
    stream, done = (torch.from_numpy(array).to(model.device) for array in (shown, operations))
    with autocast(model.device):
        found, carried = compensate_stream(model, stream, done), carry_stream(model, stream, done)
    columns = {"compensated": found.latent, "confidence": found.confidence, "carried": carried}
    return {name: value.cpu().numpy().astype(np.float16).tobytes() for name, value in columns.items()}


def text_states(data: bytes, width: int = 384) -> TextStates:
    """A text's states from its `tokens` column, float16 `(L, width)`."""
    tokens = torch.from_numpy(np.frombuffer(data, np.float16).reshape(-1, width).copy()).float()
    return TextStates(tokens, tokens.mean(0))


def _tensor(data: bytes, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, np.float16).reshape(shape).copy())


def _tensor_or_none(data: bytes | None, shape: tuple[int, ...]) -> Tensor | None:
    return None if data is None else _tensor(data, shape)

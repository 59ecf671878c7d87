"""Messages between deployments: dataclasses of numpy arrays, so that no caller needs PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gamegen.constants import FRAMES_PER_CHUNK

if TYPE_CHECKING:
    from gamegen.models.text import TextStates


@dataclass(frozen=True)
class Rejected:
    """Reply to a wrong request; `message` tells its sender what to do.

    Replicas return it instead of raising: an exception that crosses a handle arrives wrapped in a traceback.
    """

    message: str


@dataclass(frozen=True)
class EncodedText:
    """A text's token states, float32 `(L, D)`, and their pooled vector `(D,)`."""

    tokens: np.ndarray
    pooled: np.ndarray

    def to_states(self) -> TextStates:
        """Tensors of these arrays; copies, because arrays that crossed a handle may be read-only views."""
        import torch

        from gamegen.models.text import TextStates

        return TextStates(torch.from_numpy(self.tokens.copy()), torch.from_numpy(self.pooled.copy()))


@dataclass(frozen=True, kw_only=True)
class OpenRequest:
    """Opens a world; `first_frames` is a file that it starts from, `fence` tells later owners from earlier ones.

    The file is a picture, a video or a recorded start.
    """

    session_id: str
    fence: int
    prompt: EncodedText
    seed: int
    first_frames: bytes | None = None


@dataclass(frozen=True)
class Opened:
    """Reply that a world is held at a version (number of chunks); `latent` is its last one, None before the first."""

    version: int
    latent: np.ndarray | None


@dataclass(frozen=True)
class InstructionUpdate:
    """Sets the instruction from the next chunk on, in full after `blend_chunks` more; None removes it."""

    text: EncodedText | None
    blend_chunks: int = 0


@dataclass(frozen=True)
class Follow:
    """Sets the video prompt that the next chunks follow, float16 latents `(T, C, h, w)`, one each; None removes it."""

    latents: np.ndarray | None


@dataclass(frozen=True)
class LatestRequest:
    """Asks for the state of a session at `version`."""

    session_id: str
    fence: int
    version: int


@dataclass(frozen=True, kw_only=True)
class StepRequest:
    """Draws the chunk after `version` under `operations`, float32 `(4, OPERATION_SIZE)`.

    `wants_snapshot` asks for a snapshot of the world before it. `was_late` reports that the previous chunk was shown
    later than it was due, or more slowly.
    """

    session_id: str
    fence: int
    version: int
    operations: np.ndarray
    instruction: InstructionUpdate | None = None
    wants_snapshot: bool = False
    was_late: bool = False
    follow: Follow | None = None


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One drawn chunk: the version after it, its latent float16 `(C, h, w)`, the time and batch size of the pass.

    `reference` are the arrays of `gamegen.models.streaming_decoder.Reference`, float16, with which its frames are
    decoded; None before the first chunk, and for a decoder that sees none. `snapshot` is of the world before it.
    """

    version: int
    latent: np.ndarray
    step_ms: float
    num_sessions: int
    reference: tuple[np.ndarray, ...] | None = None
    snapshot: bytes | None = None


@dataclass(frozen=True)
class Missing:
    """Reply that the session is not held here at the version asked for, but at `version`, or not at all (None)."""

    version: int | None


@dataclass(frozen=True)
class Moved:
    """Reply that an owner of a later fence has stepped the session: this owner must stop."""


@dataclass(frozen=True, kw_only=True)
class DecodeRequest:
    """Decodes a chunk's latent, given the one before (None at the start), into frames of (width, height) `size`.

    `reference` is that of the `Chunk`. With `sequence`, the number of its first frame, the chunk becomes one MP4
    fragment, without it four JPEG files.
    """

    latent: np.ndarray
    previous: np.ndarray | None
    size: tuple[int, int]
    reference: tuple[np.ndarray, ...] | None = None
    sequence: int | None = None

    @property
    def num_files(self) -> int:
        """Number of files that the chunk is encoded into."""
        return FRAMES_PER_CHUNK if self.sequence is None else 1


@dataclass(frozen=True)
class DecodedFrames:
    """The next files of a chunk, none while there are too few frames, and the time since decoding began."""

    files: list[bytes]
    decode_ms: float

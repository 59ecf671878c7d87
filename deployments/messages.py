"""What the deployments say to each other: dataclasses of numpy arrays, so that no caller needs PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gamegen.controls import FRAMES_PER_CHUNK


@dataclass(frozen=True)
class Refusal:
    """The request is wrong; `message` tells its sender what to do.

    Replicas return it instead of raising: an exception that crosses a handle arrives wrapped in a traceback.
    """

    message: str


@dataclass(frozen=True)
class EncodedText:
    """A text's token states, float32 `(L, D)`, and their pooled vector `(D,)`."""

    tokens: np.ndarray
    pooled: np.ndarray


@dataclass(frozen=True)
class OpenRequest:
    """Begins a world; `first_frames` is a file that it goes on from, `fence` tells later owners from earlier ones."""

    session_id: str
    fence: int
    prompt: EncodedText
    seed: int
    first_frames: bytes | None = None


@dataclass(frozen=True)
class Opened:
    """A world stands at a version (chunks made); `latent` is its last one, None before the first."""

    version: int
    latent: np.ndarray | None


@dataclass(frozen=True)
class Instruction:
    """Puts words in force from the next chunk on, fully after `blend_chunks` more; None lifts those in force."""

    words: EncodedText | None
    blend_chunks: int = 0


@dataclass(frozen=True)
class Follow:
    """Has the next chunks follow a video prompt, float16 latents `(T, C, h, w)`, one each; None ends what there is."""

    latents: np.ndarray | None


@dataclass(frozen=True)
class LatestRequest:
    """Asks for a session at `version`."""

    session_id: str
    fence: int
    version: int


@dataclass(frozen=True)
class StepRequest:
    """Draws the chunk after `version` under `operations`, float32 `(4, OPERATION_SIZE)`.

    `was_late` tells that the chunk before was shown later than it should have been, or more slowly.
    """

    session_id: str
    fence: int
    version: int
    operations: np.ndarray
    instruction: Instruction | None = None
    wants_snapshot: bool = False
    was_late: bool = False
    follow: Follow | None = None


@dataclass(frozen=True)
class Chunk:
    """One chunk drawn: the version after it, its latent float16 `(C, h, w)`, the forward's time and batch."""

    version: int
    latent: np.ndarray
    step_ms: float
    num_sessions: int
    snapshot: bytes | None = None


@dataclass(frozen=True)
class Missing:
    """This replica does not hold the session at the version asked for; it has `version`, or nothing."""

    version: int | None


@dataclass(frozen=True)
class Moved:
    """An owner of a later fence has stepped the session: this one must leave it alone."""


@dataclass(frozen=True)
class DecodeRequest:
    """A chunk's latent, the latent before it (None at the start) and the (width, height) to show it in.

    With the `sequence` of its first frame it becomes one MP4 file of a fragment, without it four JPEG files.
    """

    latent: np.ndarray
    previous: np.ndarray | None
    size: tuple[int, int]
    sequence: int | None = None

    @property
    def num_files(self) -> int:
        """How many files it becomes."""
        return FRAMES_PER_CHUNK if self.sequence is None else 1


@dataclass(frozen=True)
class DecodedFrames:
    """The next files of a chunk, none while there are not enough frames, and how long it took until there."""

    files: list[bytes]
    decode_ms: float


@dataclass(frozen=True)
class ClipProgress:
    """A clip being rendered: `done` of `total` model passes."""

    done: int
    total: int


@dataclass(frozen=True)
class ClipFile:
    """A rendered clip as an MP4 file."""

    mp4: bytes

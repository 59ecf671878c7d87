"""Recorded starts: a moment of recorded play as a small file, which a world continues as it does a picture or video.

The file holds the moment's latents, so that whoever reads it again gets exactly the same ones, and its last frame,
which has the detail that latents lack.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gamegen.media.images import decode_image

FORMAT = "gamegen start"
START_CHUNKS = 2
"""Chunks of a start: the motion between them goes on into the world."""
MAX_START_BYTES = 1024 * 1024
_FACTS = ("id", "caption", "credit", "latents_sha256")


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordedStart:
    """A moment of recorded play; its latents are `latents * scales`, normalised, left and right swapped if `mirrored`.

    `latents` int8 `(START_CHUNKS, C, h, w)`, `scales` float32 `(START_CHUNKS, C)`. `credit` names the footage and its
    licence, `latents_sha256` the model that the latents are of. `picture` is the last frame as a WebP file, None in
    starts of galleries that have none.
    """

    id: str
    caption: str
    credit: str
    latents_sha256: str
    latents: np.ndarray
    scales: np.ndarray
    mirrored: bool = False
    picture: bytes | None = None

    def frame(self) -> np.ndarray | None:
        """The last frame as it was recorded, uint8 `(H, W, 3)`; None if the start has no picture."""
        return None if self.picture is None else decode_image(self.picture)

    def dequantised(self) -> np.ndarray:
        """The latents as recorded, float32 `(START_CHUNKS, C, h, w)`."""
        return self.latents.astype(np.float32) * self.scales[:, :, None, None]

    def to_bytes(self) -> bytes:
        """The start as a file."""
        facts = {name: getattr(self, name) for name in _FACTS}
        metadata = {FORMAT: json.dumps({**facts, "mirrored": self.mirrored})}
        arrays = {"latents": self.latents, "scales": self.scales}
        if self.picture is not None:
            arrays["picture"] = np.frombuffer(self.picture, np.uint8)
        return save(arrays, metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> RecordedStart:
        """Reads `to_bytes`; raises ValueError for anything else."""
        if len(data) > MAX_START_BYTES:
            raise ValueError(
                f"the recorded start has {len(data)} bytes and the limit is {MAX_START_BYTES}: take it from a gallery"
            )
        try:
            facts, arrays = _facts(data), load(data)
            start = cls(
                **{name: str(facts[name]) for name in _FACTS},
                mirrored=bool(facts["mirrored"]),
                latents=arrays["latents"],
                scales=arrays["scales"],
                picture=arrays["picture"].tobytes() if "picture" in arrays else None,
            )
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                "the recorded start cannot be read: take it from a gallery or a session log"
            ) from error
        start._check()
        return start

    def _check(self) -> None:
        is_whole = self.latents.ndim == 4 and self.scales.shape == self.latents.shape[:2]
        if not is_whole or len(self.latents) != START_CHUNKS or self.latents.dtype != np.int8:
            raise ValueError(
                f"the recorded start has latents {self.latents.dtype} {self.latents.shape}: "
                f"int8 ({START_CHUNKS}, C, h, w) are expected, take it from a gallery"
            )
        if self.scales.dtype != np.float32 or not np.isfinite(self.scales).all():
            raise ValueError("the recorded start's scales must be finite float32: take it from a gallery")
        self.frame()


def is_recorded_start(data: bytes) -> bool:
    """True for data that begins as a recorded start does; a picture and a video begin otherwise."""
    return data[8:10] == b'{"'


def _facts(data: bytes) -> dict[str, Any]:
    """The facts in the file's header, which safetensors' loader leaves out."""
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    return json.loads(json.loads(header)["__metadata__"][FORMAT])

"""Gallery: up to 1,000 recorded moments that worlds begin from, chosen by their scenes and captions.

    gallery/gallery.safetensors   latents and caption vectors in int8, small pictures, probes, and the list of starts
    gallery/card.json             whose latents they are, footage and licence, and the SHA-256 of the other file

It is read without PyTorch, so that a server can show and choose starts that others draw.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gamegen.files import file_sha256, write_atomically
from gamegen.gallery.scene_probes import ATTRIBUTES, SceneProbes, unit_vectors
from gamegen.media.recorded_start import RecordedStart
from gamegen.models.file_faults import file_fault

GALLERY_FOLDER = "gallery"
"""Folder of a gallery, beside a checkpoint's files or among the shipped weights."""
GALLERY_FILE = "gallery.safetensors"
CARD_FILE = "card.json"
MAX_STARTS = 1000
MAX_GALLERY_BYTES = 12_000_000
"""Limit on the file of a whole gallery."""
_STARTS = "starts"
_PROBES = "probes"
_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


class UnknownStartError(ValueError):
    """A gallery has no start of this id."""


@dataclass(frozen=True, kw_only=True)
class GalleryEntry:
    """Metadata of a start: its id, caption and perspective, and the clip and chunk that it was taken from.

    `biome`, `weather` and `time_of_day` are what was recorded there; None for footage without truth.
    """

    id: str
    caption: str
    perspective: Literal["first", "third"] | None
    clip_id: str
    chunk: int
    biome: str | None = None
    weather: str | None = None
    time_of_day: str | None = None

    @property
    def scene(self) -> dict[str, str | None]:
        """Values by attribute."""
        return {name: getattr(self, name) for name in ATTRIBUTES}


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig:
    """Choice of a start: one of the `most` that fit a prompt best.

    With probes the score is the log likelihood of a start's scene plus `similarity_weight` times the similarity, and at
    most `scene_margin` below the best one's; without, it is the similarity, at most `margin` below.
    """

    most: int = 12
    similarity_weight: float = 2.0
    scene_margin: float = 0.5
    margin: float = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Gallery:
    """N starts; `latents` int8 `(N, START_CHUNKS, C, h, w)` and `scales` float32 `(N, START_CHUNKS, C)`.

    `vectors` int8 `(N, D)` are pooled encodings of the scenes' descriptions up to a factor. `pictures` are WebP files
    of the last frames; worlds begin with them if the card has their `picture_size`, because those of older galleries
    are only to be looked at. `probes` tell the scene that a prompt asks for; None for footage without truth.
    """

    entries: tuple[GalleryEntry, ...]
    latents: np.ndarray
    scales: np.ndarray
    vectors: np.ndarray
    pictures: tuple[bytes, ...]
    card: dict[str, Any]
    probes: SceneProbes | None = None

    @property
    def credit(self) -> str:
        """The footage and its licence, in a sentence."""
        return f"{self.card['footage']} ({self.card['licence']})"

    def index(self, start_id: str) -> int:
        """Number of a start; raises UnknownStartError."""
        for number, entry in enumerate(self.entries):
            if entry.id == start_id:
                return number
        raise UnknownStartError(
            f"the gallery has no start {start_id[:80]!r}: take the id of one that it lists"
        )

    def start(self, start_id: str, seed: int = 0) -> RecordedStart:
        """The start of an id; half of all seeds mirror one in third person. Raises UnknownStartError."""
        return self._start(self.index(start_id), seed)

    def choose(
        self, vector: np.ndarray, perspective: str, seed: int, config: ChoiceConfig = ChoiceConfig()
    ) -> RecordedStart:
        """One of the starts that fit a prompt of this pooled encoding `(D,)` best, by the seed.

        It is the encoding of the prompt with its perspective in front (`gamegen.models.text.compose_prompt`).

        Starts of another perspective are left out unless there are no others.
        """
        allowed = [i for i, entry in enumerate(self.entries) if entry.perspective in (None, perspective)]
        numbers = np.array(allowed or range(len(self.entries)))
        score = self.scores(vector, numbers, config)
        margin = config.margin if self.probes is None else config.scene_margin
        order = np.argsort(-score, kind="stable")[: config.most]
        near = numbers[order[score[order] >= score.max() - margin]]
        return self._start(int(near[_draw(seed, "start") % len(near)]), seed)

    def scores(
        self, vector: np.ndarray, numbers: np.ndarray | None = None, config: ChoiceConfig = ChoiceConfig()
    ) -> np.ndarray:
        """Scores of starts of these numbers, all if None, for a prompt's encoding, as `ChoiceConfig` says."""
        numbers = np.arange(len(self.entries)) if numbers is None else numbers
        similarity = self.similarities(vector, numbers)
        if self.probes is None:
            return similarity
        scenes = [self.entries[number].scene for number in numbers]
        return self.probes.log_likelihoods(vector, scenes) + config.similarity_weight * similarity

    def similarities(self, vector: np.ndarray, numbers: np.ndarray | None = None) -> np.ndarray:
        """Similarities, from -1 to 1, of a prompt's encoding to the captions of starts, all if `numbers` is None."""
        known = unit_vectors(self.vectors if numbers is None else self.vectors[numbers])
        # What all captions share, which is most of it, tells none of them from another.
        shared = known.mean(0)
        return unit_vectors(known - shared) @ unit_vectors(unit_vectors(vector) - shared)

    def _start(self, number: int, seed: int) -> RecordedStart:
        entry = self.entries[number]
        # Mirrored, words that name a side would be wrong, and the player's hand of a first-person view on the left.
        may_mirror = entry.perspective == "third" and not _SIDES.search(entry.caption)
        return RecordedStart(
            id=entry.id,
            caption=entry.caption,
            credit=self.credit,
            latents_sha256=self.card["latents_sha256"],
            latents=self.latents[number],
            scales=self.scales[number],
            mirrored=may_mirror and bool(_draw(seed, "mirror") & 1),
            picture=self.pictures[number] if "picture_size" in self.card else None,
        )

    def save(self, folder: Path) -> None:
        """Writes the gallery; raises ValueError if its file would be larger than `MAX_GALLERY_BYTES`."""
        folder.mkdir(parents=True, exist_ok=True)
        pictures = np.frombuffer(b"".join(self.pictures), np.uint8)
        arrays = {
            "latents": self.latents,
            "scales": self.scales,
            "vectors": self.vectors,
            "pictures": pictures,
            "picture_bytes": np.array([len(picture) for picture in self.pictures], np.int64),
        }
        described = {_STARTS: json.dumps([asdict(entry) for entry in self.entries])}
        if self.probes is not None:
            described[_PROBES] = json.dumps(self.probes.values)
            arrays |= self.probes.arrays()
        with write_atomically(folder / GALLERY_FILE) as partial:
            save_file(arrays, partial, described)
            size_bytes = partial.stat().st_size
            if size_bytes > MAX_GALLERY_BYTES:
                raise ValueError(
                    f"the gallery of {len(self.entries)} starts has {size_bytes} bytes and the limit is "
                    f"{MAX_GALLERY_BYTES}: build it with fewer --starts"
                )
        sums = {GALLERY_FILE: file_sha256(folder / GALLERY_FILE)}
        card = {**self.card, "starts": len(self.entries), "size_bytes": size_bytes, "sha256": sums}
        (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Gallery:
        """Reads a gallery; raises ValueError for one that is missing or damaged."""
        file = folder / GALLERY_FILE
        try:
            card = json.loads((folder / CARD_FILE).read_text())
            if file_sha256(file) != card["sha256"][GALLERY_FILE]:
                other = "is damaged: its SHA-256 is not that of its card; build it again"
                raise ValueError(f"{file} {file_fault(file) or other}")
            with safe_open(file, "np") as opened:
                described = opened.metadata()
                listed, values = json.loads(described[_STARTS]), json.loads(described.get(_PROBES, "{}"))
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (not a mapping)
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"no gallery in {folder}: build one (gamegen gallery build --help)") from error
        ends = np.cumsum(arrays["picture_bytes"])
        data = arrays["pictures"].tobytes()
        return cls(
            entries=tuple(GalleryEntry(**fields) for fields in listed),
            latents=arrays["latents"],
            scales=arrays["scales"],
            vectors=arrays["vectors"],
            pictures=tuple(
                data[end - size : end] for end, size in zip(ends, arrays["picture_bytes"], strict=True)
            ),
            card=card,
            # Galleries of footage without truth, and those built before there were probes, have none.
            probes=SceneProbes.from_arrays(values, arrays) if values else None,
        )


def quantised(values: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Values as int8 and their float32 scales, one for all of `axes`, which the scales lack."""
    largest = np.abs(values).max(axes, keepdims=True)
    scales = np.maximum(largest / 127, 1e-12).astype(np.float32)
    return np.rint(values / scales).astype(np.int8), scales.squeeze(axes)


def _draw(seed: int, purpose: str) -> int:
    """A number that is a pure function of (seed, purpose), as the engine's noise is."""
    digest = hashlib.sha256(f"{seed}/gallery/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little")

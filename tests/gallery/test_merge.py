"""Two galleries become one: scenes that only one has stay, of frequent ones what looks alike gives way."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from gamegen.gallery.gallery import Gallery, GalleryEntry
from gamegen.gallery.merge import merge_galleries

CARD = {
    "latents_sha256": "1",
    "text_encoder": "minilm",
    "picture_size": [16, 10],
    "split": "train",
    "worlds": 2,
    "footage": "a game of ours",
    "licence": "CC0-1.0",
}


def gallery(name: str, scenes: list[tuple[str, int]]) -> Gallery:
    """A gallery with one start for each biome and grey of `scenes`."""
    count = len(scenes)
    entries = tuple(
        GalleryEntry(
            id=f"{name}-{number}", caption=biome, perspective="first", clip_id=name, chunk=number, biome=biome
        )
        for number, (biome, _) in enumerate(scenes)
    )
    return Gallery(
        entries=entries,
        latents=np.arange(count, dtype=np.int8).reshape(count, 1, 1, 1, 1) + len(name),
        scales=np.ones((count, 1, 1), np.float32),
        vectors=np.ones((count, 4), np.int8),
        pictures=tuple(_picture(grey) for _, grey in scenes),
        card=CARD,
    )


def _picture(grey: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((10, 16, 3), grey, np.uint8)).save(file, "WEBP", lossless=True)
    return file.getvalue()


def test_rare_scenes_stay_and_what_looks_alike_gives_way(tmp_path):
    kept = gallery("old", [("desert", 10), ("desert", 200), ("desert", 12), ("desert", 100)])
    added = gallery("newer", [("tundra", 50), ("desert", 101), ("tundra", 150)])
    merged = merge_galleries(kept, added, 5)
    assert Counter(entry.biome for entry in merged.entries) == {"desert": 3, "tundra": 2}
    assert [entry.id for entry in merged.entries] == ["old-0", "old-1", "old-3", "newer-0", "newer-2"]
    assert merged.latents.ravel().tolist() == [3, 4, 6, 5, 7]
    assert merged.card["worlds"] == 4 and merged.card["clips"] == 2
    merged.save(tmp_path)
    assert Gallery.load(tmp_path).pictures == merged.pictures
    assert len(merge_galleries(kept, added).entries) == 7


def test_galleries_of_other_kinds_are_refused():
    kept, added = gallery("old", [("desert", 10)]), gallery("newer", [("tundra", 50)])
    with pytest.raises(ValueError, match="old-0 is in both"):
        merge_galleries(kept, kept)
    with pytest.raises(ValueError, match="latents_sha256 is 1 and 2: build both with one model"):
        merge_galleries(kept, replace(added, card={**CARD, "latents_sha256": "2"}))
    with pytest.raises(ValueError, match="1 to 1000"):
        merge_galleries(kept, added, 0)

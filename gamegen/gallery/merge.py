"""Merging of two galleries into one that has every scene in even numbers.

Footage that is recorded later adds the scenes that were missing; what there is most of gives way. A scene here is a
biome, a weather, a time of day and a perspective.
"""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import replace

import numpy as np
from PIL import Image

from gamegen.gallery.gallery import MAX_STARTS, Gallery, GalleryEntry
from gamegen.gallery.looks import look_of

_SAME = ("latents_sha256", "text_encoder", "picture_size", "split")


def merge_galleries(kept: Gallery, added: Gallery, num_starts: int = MAX_STARTS) -> Gallery:
    """At most `num_starts` starts of two galleries, scenes in numbers as even as can be.

    While there are too many, the scene with most of them loses the start that looks most like another of that scene.
    The probes are those of `kept`. Raises ValueError if the galleries' latents, encodings or pictures are not of one
    kind, or if a start is in both.
    """
    if not 1 <= num_starts <= MAX_STARTS:
        raise ValueError(f"{num_starts} starts: a gallery has 1 to {MAX_STARTS}")
    for name in _SAME:
        if kept.card.get(name) != added.card.get(name):
            raise ValueError(
                f"the galleries' {name} is {kept.card.get(name)} and {added.card.get(name)}: build both with one model"
            )
    entries, pictures = kept.entries + added.entries, kept.pictures + added.pictures
    twice = {entry.id for entry in kept.entries} & {entry.id for entry in added.entries}
    if twice:
        raise ValueError(f"{min(twice)} is in both galleries: build one of other clips")
    numbers = _evened_out(entries, pictures, num_starts)
    chosen = tuple(entries[number] for number in numbers)
    return replace(
        kept,
        entries=chosen,
        latents=np.concatenate([kept.latents, added.latents])[numbers],
        scales=np.concatenate([kept.scales, added.scales])[numbers],
        vectors=np.concatenate([kept.vectors, added.vectors])[numbers],
        pictures=tuple(pictures[number] for number in numbers),
        card={
            **kept.card,
            "worlds": kept.card["worlds"] + added.card["worlds"],
            "clips": len({entry.clip_id for entry in chosen}),
        },
    )


def _evened_out(entries: tuple[GalleryEntry, ...], pictures: tuple[bytes, ...], num_starts: int) -> list[int]:
    """The numbers of the starts that stay, in their order."""
    scenes: dict[tuple[str | None, ...], list[int]] = defaultdict(list)
    for number, entry in enumerate(entries):
        scenes[(*entry.scene.values(), entry.perspective)].append(number)
    looks = np.stack([_look(picture) for picture in pictures])
    for _ in range(len(entries) - num_starts):
        scene = max(scenes.values(), key=len)
        del scene[_most_alike(looks[scene])]
    return sorted(number for scene in scenes.values() for number in scene)


def _most_alike(looks: np.ndarray) -> int:
    """Which of these looks `(N, D)` is nearest to another one; of the two the later."""
    differences = np.square(looks[:, None] - looks).mean(-1)
    np.fill_diagonal(differences, np.inf)
    nearest = differences.min(1)
    return len(looks) - 1 - int(nearest[::-1].argmin())


def _look(picture: bytes) -> np.ndarray:
    return look_of(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")))

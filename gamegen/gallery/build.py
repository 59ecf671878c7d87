"""Building of a gallery from encoded clips of training worlds: which moments are kept, and how they are stored.

Moments are taken in turn from every world, and within a world from the scene that has given the fewest so far: the best
one first, none that looks like one that is kept already. A scene is a stretch of a clip with one description.
"""

from __future__ import annotations

import heapq
import io
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.curation import shards
from gamegen.curation.encoded import FULL_PROMPTS
from gamegen.curation.encoded_clip import EncodedClip
from gamegen.gallery.gallery import MAX_STARTS, Gallery, GalleryEntry, quantised
from gamegen.gallery.looks import look_of
from gamegen.gallery.probe_fitting import fit_probes, read_texts, scene_value
from gamegen.media.mp4 import read_mp4
from gamegen.media.recorded_start import START_CHUNKS
from gamegen.models.digests import latents_sha256, vae_sha256
from gamegen.models.folding import chunk_pixels
from gamegen.models.model import Model

SPLIT = "train"
_Scene = tuple[str, int]
_LEFT_OUT: dict[str, Any] = {
    "video_prompts": (),
    "compensated": None,
    "confidence": None,
    "carried": None,
    "instructions": (),
}
"""Columns that a start does not need, which would take longest to read."""
_BLOCK_PX = 8
_PERSPECTIVES: dict[str, Literal["first", "third"]] = {"first": "first", "third": "third"}
_LUMINANCE = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, kw_only=True)
class GalleryConfig:
    """Settings of a gallery's choice of moments.

    A moment is looked at every `stride_chunks`, and not within `settle_chunks` after the scene changed; at most
    `most_of_scene` of a scene are kept. Luminance goes from 0 to 1: its mean is at least `min_luminance` and at most
    `max_luminance`. As a share of the picture's brightest part, or of `min_brightest` if that is darker, luminance
    differs by `min_texture` (a standard deviation) within at least `min_textured` of the 8x8 blocks: nights pass,
    skies, water and walls before the eyes do not. Two moments look alike if the square roots of their pictures, scaled
    to 16x10, differ by less than `min_difference` (root mean square); the roots count dark pictures as bright ones.
    `picture_quality` is that of WebP, 0 to 100.
    """

    stride_chunks: int = 6
    settle_chunks: int = 6
    most_of_scene: int = 6
    min_luminance: float = 0.05
    max_luminance: float = 0.92
    min_brightest: float = 0.2
    min_texture: float = 0.03
    min_textured: float = 0.25
    min_difference: float = 0.06
    picture_quality: int = 90


@dataclass(frozen=True, kw_only=True)
class _Moment:
    """A moment that may be kept: its latents, normalised, and how good its last frame is, from 0 to 1."""

    entry: GalleryEntry
    world: tuple[str, int]
    scene: _Scene
    latents_TCHW: Tensor
    vector_D: Tensor
    look: np.ndarray
    score: float


def build_gallery(
    data: Path,
    curated: Path,
    model: Model,
    card: dict[str, Any],
    num_starts: int = MAX_STARTS,
    config: GalleryConfig = GalleryConfig(),
) -> Gallery:
    """A gallery of at most `num_starts` moments of the encoded clips under `data`, of training worlds only.

    `curated` has the same clips before they were encoded, for the pictures. `card` is the model's: its footage and
    licence are those of the gallery. Raises FileNotFoundError without encoded clips, and ValueError for clips that
    another VAE encoded or that are not among the curated ones, or if no moment can be used.
    """
    if not 1 <= num_starts <= MAX_STARTS:
        raise ValueError(f"{num_starts} starts: a gallery has 1 to {MAX_STARTS}")
    if not shards.part_files(data):
        raise FileNotFoundError(f"no encoded clips under {data}: encode some first (gamegen encode --help)")
    kept = _spread(_moments(data, model, config), num_starts, config)
    if not kept:
        raise ValueError(f"no moment of the training clips under {data} can be used: encode more of them")
    latents, scales = quantised(torch.stack([m.latents_TCHW for m in kept]).numpy(), (3, 4))
    vectors, _ = quantised(torch.stack([m.vector_D for m in kept]).numpy(), (1,))
    return Gallery(
        entries=tuple(m.entry for m in kept),
        latents=latents,
        scales=scales,
        vectors=vectors,
        pictures=_pictures(curated, [m.entry for m in kept], config),
        probes=fit_probes(read_texts(data, SPLIT)),
        card={
            "split": SPLIT,
            "picture_size": [model.config.width, model.config.height],
            "worlds": len({m.world for m in kept}),
            "clips": len({m.entry.clip_id for m in kept}),
            "footage": card.get("data", {}).get("footage", "footage of unknown origin"),
            "licence": card.get("licence", "unknown licence"),
            "vae_sha256": vae_sha256(model),
            "latents_sha256": latents_sha256(model),
            "text_encoder": model.config.text_encoder,
        },
    )


def _moments(data: Path, model: Model, config: GalleryConfig) -> Iterator[_Moment]:
    """The best moments of each scene."""
    sha256 = vae_sha256(model)
    for row in shards.read_rows(data, splits=[SPLIT]):
        if row["split"] != SPLIT:
            continue
        if row["vae_sha256"] != sha256 or tuple(row["latent_shape"]) != model.config.latent_shape:
            raise ValueError(
                f"{row['clip_id']} has latents {row['latent_shape']} of VAE {row['vae_sha256'][:16]}..., the model's "
                f"are {list(model.config.latent_shape)} of {sha256[:16]}...: encode the clips with this model"
            )
        found = _moments_of(row, model, config)
        for _, scene in itertools.groupby(found, key=lambda moment: moment.scene):
            yield from heapq.nlargest(config.most_of_scene, scene, key=lambda moment: moment.score)


def _moments_of(row: dict[str, Any], model: Model, config: GalleryConfig) -> Iterator[_Moment]:
    clip = EncodedClip.from_row({**row, **_LEFT_OUT})
    latents = model.normalise(clip.latents.float().to(model.device)).cpu()
    changes = [segment.chunk for segment in clip.segments]
    chunks = [*range(START_CHUNKS - 1, clip.num_chunks, config.stride_chunks)]
    for chunk, frame in zip(chunks, _last_frames(latents, chunks, model), strict=True):
        number = sum(change <= chunk for change in changes) - 1
        if number and chunk - changes[number] < config.settle_chunks:
            continue
        moment_TCHW = latents[chunk + 1 - START_CHUNKS : chunk + 1]
        score = score_picture(frame, config)
        if score is None:
            continue
        prompts = row["segments"][number]["prompts"]
        yield _Moment(
            entry=GalleryEntry(
                id=f"{clip.clip_id}-{chunk:04d}",
                caption=prompts[0]["text"],
                perspective=_PERSPECTIVES.get(clip.view[chunk]),
                clip_id=clip.clip_id,
                chunk=chunk,
                biome=scene_value(clip.biome, chunk),
                weather=scene_value(clip.weather, chunk),
                time_of_day=scene_value(clip.time_of_day, chunk),
            ),
            world=(row["game"], row["world_seed"]),
            scene=(clip.clip_id, number),
            latents_TCHW=moment_TCHW,
            # Several ways to say the same, so that the choice of words counts less.
            vector_D=torch.stack([text.pooled for text in clip.segments[number].prompts[:FULL_PROMPTS]]).mean(
                0
            ),
            look=look_of(frame),
            score=score,
        )


@torch.inference_mode()
def _last_frames(latents_TCHW: Tensor, chunks: list[int], model: Model) -> np.ndarray:
    """The last frame of each of these chunks of a clip, uint8 `(N, H, W, 3)`."""
    latents = model.denormalise(latents_TCHW.to(model.device))
    before = [chunk - 1 for chunk in chunks]
    return chunk_pixels(model.vae.streaming(latents[chunks], latents[before]))[:, -1].cpu().numpy()


def score_picture(frame: np.ndarray, config: GalleryConfig) -> float | None:
    """Score of a picture by its share of scenery, from 0 to 1; None if it is too dark, too bright or nearly uniform."""
    luminance = frame @ _LUMINANCE / 255
    if not config.min_luminance <= luminance.mean() <= config.max_luminance:
        return None
    height, width = (size // _BLOCK_PX for size in luminance.shape)
    lit = luminance / max(float(np.percentile(luminance, 99)), config.min_brightest)
    blocks = lit[: height * _BLOCK_PX, : width * _BLOCK_PX].reshape(height, _BLOCK_PX, width, _BLOCK_PX)
    textured = float((blocks.std((1, 3)) >= config.min_texture).mean())
    if textured < config.min_textured:
        return None
    # Half is scenery and sky; a picture that is all texture looks at the ground or into leaves.
    return (1 - abs(textured - 0.65)) * min(1.0, float(lit.std()) / 0.2)


def _spread(moments: Iterable[_Moment], num_starts: int, config: GalleryConfig) -> list[_Moment]:
    """At most `num_starts` moments, in turn from every world and its clips, the best first and none twice."""
    waiting: dict[tuple[str, int], dict[_Scene, list[_Moment]]] = defaultdict(dict)
    for moment in moments:
        waiting[moment.world].setdefault(moment.scene, []).append(moment)
    taken: dict[_Scene, int] = defaultdict(int)
    kept: list[_Moment] = []
    while waiting and len(kept) < num_starts:
        for world in sorted(waiting):
            following = _next(waiting[world], taken, kept, config)
            if following and len(kept) < num_starts:
                kept.append(following)
                taken[following.scene] += 1
        waiting = defaultdict(dict, {world: scenes for world, scenes in waiting.items() if scenes})
    return kept


def _next(
    scenes: dict[_Scene, list[_Moment]], taken: dict[_Scene, int], kept: list[_Moment], config: GalleryConfig
) -> _Moment | None:
    """Takes a world's next moment that looks like none of `kept`; None, and no scenes, if there is none left."""
    while scenes:
        scene = min(scenes, key=lambda name: (taken[name], name))
        moment = scenes[scene].pop(0)
        if not scenes[scene]:
            del scenes[scene]
        if not kept or _nearest(moment, kept) >= config.min_difference:
            return moment
    return None


def _nearest(moment: _Moment, kept: list[_Moment]) -> float:
    differences = np.stack([other.look for other in kept]) - moment.look
    return float(np.sqrt(np.square(differences).mean(1)).min())


def _pictures(curated: Path, entries: list[GalleryEntry], config: GalleryConfig) -> tuple[bytes, ...]:
    """WebP files of the last frames of moments, as they were recorded."""
    wanted: dict[str, list[int]] = defaultdict(list)
    for number, entry in enumerate(entries):
        wanted[entry.clip_id].append(number)
    found: dict[int, bytes] = {}
    for row in shards.read_rows(curated, ["clip_id", "video"], [SPLIT]):
        numbers = wanted.pop(row["clip_id"], [])
        frames = read_mp4(row["video"]) if numbers else np.empty(0)
        for number in numbers:
            found[number] = _webp(frames[FRAMES_PER_CHUNK * (entries[number].chunk + 1) - 1], config)
    if wanted:
        raise ValueError(
            f"{min(wanted)} is not among the curated clips under {curated}: give the folder that was encoded"
        )
    return tuple(found[number] for number in range(len(entries)))


def _webp(frame: np.ndarray, config: GalleryConfig) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "WEBP", quality=config.picture_quality, method=6)
    return buffer.getvalue()

"""The opening of a world, read from the file that it continues, and the gallery of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gamegen.constants import SPATIAL_FACTOR
from gamegen.gallery.gallery import CARD_FILE, GALLERY_FOLDER, Gallery
from gamegen.media.first_frames import read_first_frames
from gamegen.media.frames import resize_to
from gamegen.media.recorded_start import RecordedStart, is_recorded_start
from gamegen.models.checkpoint import WEIGHTS_FOLDER, resolve
from gamegen.models.digests import latents_sha256
from gamegen.models.folding import to_pixels
from gamegen.models.model import Model
from gamegen.models.opening import Opening


def find_gallery(model: Model, name_or_path: str | Path) -> Gallery | None:
    """The gallery of a model's latents, from its checkpoint's folder or among the shipped weights; None without one.

    Raises ValueError if it is damaged, CheckpointError if there is no checkpoint of that name.
    """
    for folder in _folders(name_or_path):
        gallery = Gallery.load(folder)
        if _fits(gallery, model):
            return gallery
    return None


def gallery_cards(name_or_path: str | Path) -> list[str]:
    """Cards of the galleries that `find_gallery` looks at, which change with them."""
    return [(folder / CARD_FILE).read_text() for folder in _folders(name_or_path)]


def _folders(name_or_path: str | Path) -> list[Path]:
    folders = (resolve(name_or_path) / GALLERY_FOLDER, WEIGHTS_FOLDER / GALLERY_FOLDER)
    return [folder for folder in folders if (folder / CARD_FILE).is_file()]


def _fits(gallery: Gallery, model: Model) -> bool:
    return (
        gallery.latents.shape[2:] == model.config.latent_shape
        and gallery.card["text_encoder"] == model.config.text_encoder
        and gallery.card["latents_sha256"] == latents_sha256(model)
    )


def read_opening(file: bytes, model: Model, size: tuple[int, int], max_chunks: int) -> Opening:
    """The opening of a world that continues a file: a recorded start, a picture or a video.

    `size` = (width, height) and `max_chunks` as in `read_first_frames`. Raises ValueError, which says what to do, for a
    file that cannot be read or a start of another model's latents.
    """
    if is_recorded_start(file):
        return start_opening(RecordedStart.from_bytes(file), model)
    return Opening.of_frames(read_first_frames(file, size, max_chunks), model)


@torch.inference_mode()
def start_opening(start: RecordedStart, model: Model) -> Opening:
    """The opening of a recorded start; raises ValueError if its latents are another model's."""
    sha256 = latents_sha256(model)
    if start.latents_sha256 != sha256 or start.latents.shape[1:] != model.config.latent_shape:
        raise ValueError(
            f"start {start.id!r} has latents {start.latents.shape[1:]} of another VAE ({start.latents_sha256[:16]}..., "
            f"this model's is {sha256[:16]}...): use the model that it was begun with, or begin without a gallery"
        )
    latents = torch.from_numpy(start.dequantised())
    latents = mirrored(latents, model) if start.mirrored else latents
    return Opening(latents, is_varied=True, shown=_shown(start))


def _shown(start: RecordedStart) -> Tensor | None:
    """The start's last frame twice, uint8 `(2, H, W, 3)`, because a world begins at rest; None if it has no picture."""
    frame = start.frame()
    if frame is None:
        return None
    height, width = (SPATIAL_FACTOR * side for side in start.latents.shape[2:])
    frame = resize_to(frame[None], (width, height))[0]
    return torch.from_numpy(np.stack([frame[:, ::-1] if start.mirrored else frame] * 2))


@torch.inference_mode()
def mirrored(latents_TCHW: Tensor, model: Model) -> Tensor:
    """Latents of the same moment with left and right swapped, normalised as the given ones are."""
    latent = model.denormalise(latents_TCHW.to(model.device))
    video_FCHW = model.vae.decode(latent[None])[0]
    frames = to_pixels(video_FCHW.flip(-1)).cpu().numpy()
    return model.encode(frames)

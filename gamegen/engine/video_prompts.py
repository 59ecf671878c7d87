"""Encoding of video prompts by a model's autoencoder."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.media.prompt_pictures import KINDS, MAX_PROMPT_CHUNKS, POSE
from gamegen.media.untrusted import MAX_PROMPT_BYTES, MAX_PROMPT_S, read_frames
from gamegen.models.model import Model
from gamegen.sessions.log import VideoPrompt


def encode_video_prompt(
    model: Model, frames: np.ndarray, kind: str, size: tuple[int, int] | None = None
) -> Tensor:
    """Latents of a video prompt for `WorldEngine.prompt_video`: `(T, C, h, w)` float32, normalised, on the CPU.

    `frames` uint8 `(F, H, W, 3)` at 24 frames a second: a video whose edges (`canny`) or motion (`motion`) count, or
    one of drawn poses (`pose`). T is F // 4, a rest is left out. Raises ValueError for another kind, frames that are
    not those of a world of `size` (width and height in pixels, the model's own by default), fewer than 4 or more than
    `MAX_PROMPT_S` of them.
    """
    if kind not in (*KINDS, POSE):
        raise ValueError(f"video prompt {kind!r}: use one of {', '.join((*KINDS, POSE))}")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"expected uint8 frames (F, H, W, 3), got {frames.dtype} {frames.shape}")
    width, height = size or (model.config.width, model.config.height)
    if frames.shape[1:3] != (height, width):
        raise ValueError(
            f"the video prompt is {frames.shape[2]}x{frames.shape[1]}: resize it to {width}x{height}"
        )
    max_frames = MAX_PROMPT_CHUNKS * FRAMES_PER_CHUNK
    if not FRAMES_PER_CHUNK <= len(frames) <= max_frames:
        raise ValueError(
            f"the video prompt has {len(frames)} frames: it takes {FRAMES_PER_CHUNK} to {max_frames} "
            f"({MAX_PROMPT_S:g} seconds)"
        )
    pictures = frames if kind == POSE else KINDS[kind](frames)
    return model.encode(pictures)


def read_video_prompt(model: Model, prompt: VideoPrompt, size: tuple[int, int] | None = None) -> Tensor:
    """Latents of a video prompt's file, read at 24 frames a second, scaled and cropped; see `encode_video_prompt`.

    Raises ValueError for a file that cannot be read, and as `encode_video_prompt`.
    """
    wanted = size or (model.config.width, model.config.height)
    max_frames = MAX_PROMPT_CHUNKS * FRAMES_PER_CHUNK
    frames = read_frames(prompt.file, wanted, max_frames, max_bytes=MAX_PROMPT_BYTES, max_s=MAX_PROMPT_S)
    return encode_video_prompt(model, frames, prompt.kind, wanted)

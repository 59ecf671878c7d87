"""Text to clip: draws a whole video from a prompt, chunk after chunk, and decodes it with the large decoder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gamegen.clips.decode import decode_window
from gamegen.clips.drawing import Drawing
from gamegen.clips.renderer import ClipConfig, ClipRenderer
from gamegen.controls import FPS, FRAMES_PER_CHUNK, Control
from gamegen.models.text import EncodesText, load_text_encoder
from gamegen.models.vae import from_pixels, to_pixels
from gamegen.video import MAX_FRAMES, check_frames, check_size
from gamegen.videos.order import Order
from gamegen.world import check_frames_fit, compose_prompt

Progress = Callable[[int, int], None]


class VideoPipeline:
    """Renders clips of up to `MAX_FRAMES` frames, one after the other."""

    def __init__(self, renderer: ClipRenderer, text_encoder: EncodesText) -> None:
        self.renderer = renderer
        self.text_encoder = text_encoder

    @classmethod
    def load(cls, name_or_path: str | Path = "nano", device: str | None = None) -> VideoPipeline:
        """Loads a checkpoint; raises CheckpointError."""
        renderer = ClipRenderer.load(name_or_path, device, ClipConfig(max_drawings=1))
        return cls(renderer, load_text_encoder(renderer.model.config.text_encoder))

    @torch.inference_mode()
    def generate(
        self,
        prompt: str,
        num_frames: int = MAX_FRAMES,
        seed: int = 0,
        perspective: str = "first",
        size: tuple[int, int] | None = None,
        controls: list[Control] | None = None,
        image: np.ndarray | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """A clip, uint8 `(num_frames, H, W, 3)`.

        `size` is (width, height) in pixels, the model's own by default; `controls` one for each chunk, walking
        forward by default; `image` a first picture of that size; `progress` is called with (chunks done, all).
        Raises ValueError for too many frames, a size that is not a multiple of 16, or a text that is too long.
        """
        check_frames(num_frames)
        model = self.renderer.model
        width, height = size or (model.config.width, model.config.height)
        check_size(width, height)
        states = self.text_encoder.encode([compose_prompt(prompt, perspective)])[0]
        image_key = first = None
        if image is not None:
            image_key = hashlib.sha256(image.tobytes()).hexdigest()
            frames = np.repeat(image[None], FRAMES_PER_CHUNK, 0)
            check_frames_fit(frames, (width, height))
            first = model.encode(frames)
        sampling = model.config.sampling
        order = Order(
            model="",
            prompt=prompt,
            negative_prompt="",
            perspective=perspective,
            width=width,
            height=height,
            num_frames=num_frames,
            fps=FPS,
            num_steps=sampling.num_steps,
            guidance_scale=sampling.guidance_scale,
            seed=seed,
            image_key=image_key,
        )
        drawing = self.renderer.begin(order, states, first=first, controls=controls or ())
        try:
            self._draw(drawing, progress)
        finally:
            self.renderer.close(drawing)
        return decode_window(model, drawing.latents)[:num_frames]

    def _draw(self, drawing: Drawing, progress: Progress | None) -> None:
        while not drawing.is_done:
            done = len(drawing.finished)
            self.renderer.step([drawing])
            if progress and len(drawing.finished) > done:
                progress(len(drawing.finished), drawing.plan.num_chunks)

    @torch.inference_mode()
    def reconstruct(self, frames: np.ndarray) -> np.ndarray:
        """Frames, uint8 `(4n, H, W, 3)`, through the VAE and back: the ceiling of what the model can draw."""
        model = self.renderer.model
        video, vae = from_pixels(torch.from_numpy(frames))[None].to(model.device), model.vae
        return to_pixels(vae.decode(vae.encode(video))[0]).cpu().numpy()

"""Text to clip: draws a whole video from a prompt, chunk after chunk, and decodes it with the large decoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gamegen.controls import FRAMES_PER_CHUNK, Control
from gamegen.models.text import EncodesText, load_text_encoder
from gamegen.models.vae import from_pixels, to_pixels
from gamegen.video import MAX_FRAMES, check_frames, check_size
from gamegen.world import EngineConfig, WorldEngine, check_frames_fit, compose_prompt

Progress = Callable[[int, int], None]


class VideoPipeline:
    """Renders clips of up to `MAX_FRAMES` frames."""

    def __init__(self, engine: WorldEngine, text_encoder: EncodesText) -> None:
        self.engine = engine
        self.text_encoder = text_encoder

    @classmethod
    def load(cls, name_or_path: str | Path = "nano", device: str | None = None) -> VideoPipeline:
        """Loads a checkpoint; raises CheckpointError."""
        engine = WorldEngine.load(name_or_path, device, EngineConfig(max_sessions=1))
        return cls(engine, load_text_encoder(engine.model.config.text_encoder))

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
        width, height = size or (self.engine.model.config.width, self.engine.model.config.height)
        check_size(width, height)
        num_chunks = -(-num_frames // FRAMES_PER_CHUNK)
        states = self.text_encoder.encode([compose_prompt(prompt, perspective)])[0]
        engine = self.engine.sized(width, height)
        first = None
        if image is not None:
            frames = np.repeat(image[None], FRAMES_PER_CHUNK, 0)
            check_frames_fit(frames, (width, height))
            first = engine.model.encode(frames)
        engine.open("clip", states, seed, first)
        latents = [] if first is None else [*first]
        for i in range(len(latents), num_chunks):
            control = controls[i] if controls and i < len(controls) else Control({"w"})
            latents.append(torch.from_numpy(engine.step({"clip": control.operations()})["clip"]).float())
            if progress:
                progress(i + 1, num_chunks)
        engine.close("clip")
        return self._decode(torch.stack(latents))[:num_frames]

    def _decode(self, latents_TCHW: torch.Tensor) -> np.ndarray:
        model = self.engine.model
        cache, pieces = None, []
        for latent in model.denormalise(latents_TCHW.to(model.device)):
            video, cache = model.vae.decode_chunks(latent[None, None], cache)
            pieces.append(to_pixels(video[0]).cpu().numpy())
        return np.concatenate(pieces)

    @torch.inference_mode()
    def reconstruct(self, frames: np.ndarray) -> np.ndarray:
        """Frames, uint8 `(4n, H, W, 3)`, through the VAE and back: the ceiling of what the model can draw."""
        video = from_pixels(torch.from_numpy(frames))[None].to(self.engine.model.device)
        vae = self.engine.model.vae
        return to_pixels(vae.decode(vae.encode(video))[0]).cpu().numpy()

"""Text-to-video pipeline: renders a clip from a prompt and decodes it with the large decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.controls import Control
from gamegen.generation.decode import ClipDecoder
from gamegen.generation.drawing import Drawing
from gamegen.generation.drawn_size import drawn_size
from gamegen.generation.renderer import ClipConfig, ClipRenderer
from gamegen.generation.spec import DEFAULT_FRAMES, ClipSpec, ClipStart, guidance_of
from gamegen.media.first_frames import check_frames_fit
from gamegen.media.size import Size
from gamegen.models.folding import from_pixels, to_pixels
from gamegen.models.sampling import Solver
from gamegen.models.text import EncodesText, compose_prompt, load_text_encoder

Progress = Callable[[int, int], None]


class VideoPipeline:
    """Renders clips, one at a time."""

    def __init__(self, renderer: ClipRenderer, text_encoder: EncodesText) -> None:
        self.renderer = renderer
        self.text_encoder = text_encoder

    @classmethod
    def load(cls, name_or_path: str | Path = "nano", device: str | None = None) -> VideoPipeline:
        """Loads a checkpoint; raises CheckpointError."""
        renderer = ClipRenderer.load(name_or_path, device, ClipConfig(max_drawings=1))
        return cls(renderer, load_text_encoder(renderer.model.config.text_encoder))

    def drawn_size(self, asked: Size | None = None) -> Size:
        """The size at which the model draws a clip of the size `asked`, its own if None; see `drawn_size`."""
        config = self.renderer.model.config
        own = Size(config.width, config.height)
        return own if asked is None else drawn_size(asked, own)

    def generate(self, prompt: str, **options: Any) -> np.ndarray:
        """A whole clip, uint8 `(num_frames, H, W, 3)`; options and errors as of `stream`."""
        return np.concatenate([*self.stream(prompt, **options)])

    def stream(
        self,
        prompt: str,
        *,
        num_frames: int = DEFAULT_FRAMES,
        seed: int = 0,
        perspective: str = "first",
        size: tuple[int, int] | None = None,
        controls: Sequence[Control] = (),
        image: np.ndarray | None = None,
        negative_prompt: str = "",
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        solver: Solver | None = None,
        progress: Progress | None = None,
    ) -> Iterator[np.ndarray]:
        """The frames of a clip, uint8 `(T, H, W, 3)`, chunk after chunk as they are drawn; the memory stays as it is.

        `size` is (width, height) in pixels, the model's own by default; `controls` one for each chunk, walking
        forward by default; `image` a first picture of that size; `progress` is called with (chunks done, all).
        `num_steps`, `guidance_scale` and `solver` are the model's own by default; with a `negative_prompt` guidance is
        `NEGATIVE_GUIDANCE` at least by default. Raises ValueError for no frames, a size that is not a multiple of 16, a
        text that is too long, or a negative prompt that guidance gives no effect.
        """
        model = self.renderer.model
        width, height = size or (model.config.width, model.config.height)
        spec = ClipSpec(
            width=width,
            height=height,
            num_frames=num_frames,
            num_steps=num_steps or model.config.sampling.num_steps,
            guidance_scale=guidance_of(guidance_scale, model.config.sampling, bool(negative_prompt)),
            seed=seed,
            solver=solver,
            start=ClipStart.NOTHING if image is None else ClipStart.IMAGE,
        )
        states = self.text_encoder.encode([compose_prompt(prompt, perspective)])[0]
        negative = self.text_encoder.encode([negative_prompt])[0] if negative_prompt else None
        first = None
        if image is not None:
            frames = np.repeat(image[None], FRAMES_PER_CHUNK, 0)
            check_frames_fit(frames, spec.size)
            first = model.encode(frames)
        drawing = self.renderer.begin(spec, states, negative, first=first, controls=controls)
        try:
            yield from self._frames(drawing, progress)
        finally:
            self.renderer.close(drawing)

    def _frames(self, drawing: Drawing, progress: Progress | None) -> Iterator[np.ndarray]:
        """Draws a clip and decodes each chunk once it is finished."""
        decoder, num_chunks = ClipDecoder(self.renderer.model), drawing.plan.num_chunks
        left, done = drawing.spec.num_frames, 0
        while done < num_chunks:
            while len(drawing.finished) == done:
                with torch.inference_mode():
                    self.renderer.step([drawing])
            for latent in drawing.finished.each_latent(done):
                frames = decoder.decode(latent)[:left]
                left, done = left - len(frames), done + 1
                if progress:
                    progress(done, num_chunks)
                yield frames

    @torch.inference_mode()
    def reconstruct(self, frames: np.ndarray) -> np.ndarray:
        """Frames, uint8 `(4n, H, W, 3)`, encoded by the VAE and decoded: the upper bound of the model's quality."""
        model = self.renderer.model
        video, vae = from_pixels(torch.from_numpy(frames))[None].to(model.device), model.vae
        return to_pixels(vae.decode(vae.encode(video))[0]).cpu().numpy()

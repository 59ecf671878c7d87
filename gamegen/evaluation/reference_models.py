"""Reference networks of the field, where their weights are given: for FID, FVD, LPIPS and CLIP similarity.

None of these networks comes with GameGen. Inception-v3, I3D and LPIPS are given as TorchScript files, as published for
StyleGAN3 and its kin; CLIP as a local folder that `transformers` can load.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from gamegen.files import file_sha256

_OPTIONS = {"return_features": True, "rescale": True, "resize": True}
"""Switches of published TorchScript networks: features and not classes, of frames of any size in 0 to 255."""


@dataclass(frozen=True, kw_only=True)
class ReferenceModels:
    """Paths of the weights; a metric whose path is None is not measured."""

    fid: str | None = None
    fvd: str | None = None
    lpips: str | None = None
    clip: str | None = None

    def sums(self) -> dict[str, str]:
        """SHA-256 of each file and the folder of CLIP, which identify the networks."""
        files = {"fid": self.fid, "fvd": self.fvd, "lpips": self.lpips}
        sums = {name: file_sha256(Path(path)) for name, path in files.items() if path}
        return sums | ({"clip": str(Path(self.clip).resolve())} if self.clip else {})


class TorchScriptNetwork:
    """A network from a TorchScript file; raises ValueError for another file."""

    def __init__(self, path: str) -> None:
        try:
            self._module: Any = torch.jit.load(path, map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is not a TorchScript file: save one with torch.jit.save") from error
        known = {argument.name for argument in self._module.forward.schema.arguments}
        self._options = {name: value for name, value in _OPTIONS.items() if name in known}

    @torch.inference_mode()
    def image_features(self, frames: np.ndarray) -> np.ndarray:
        """Features float32 `(N, D)` of frames uint8 `(N, H, W, 3)`, given as uint8 `(N, 3, H, W)`."""
        pixels = rearrange(torch.from_numpy(frames), "n h w c -> n c h w")
        return self._rows(self._module(pixels, **self._options))

    @torch.inference_mode()
    def video_features(self, videos: np.ndarray) -> np.ndarray:
        """Features float32 `(N, D)` of videos uint8 `(N, T, H, W, 3)`, given as float `(N, 3, T, H, W)`, 0 to 255."""
        pixels = rearrange(torch.from_numpy(videos), "n t h w c -> n c t h w").float()
        return self._rows(self._module(pixels, **self._options))

    @torch.inference_mode()
    def distance(self, frames: np.ndarray, truth: np.ndarray) -> float:
        """Mean distance of pairs of frames uint8 `(N, H, W, 3)`, given as floats `(N, 3, H, W)` in [-1, 1]."""
        a, b = (
            rearrange(torch.from_numpy(x), "n h w c -> n c h w").float() / 127.5 - 1 for x in (frames, truth)
        )
        return float(self._module(a, b, **self._options).mean())

    @staticmethod
    def _rows(features: Tensor) -> np.ndarray:
        return features.flatten(1).float().numpy()


class ClipNetwork:
    """CLIP (Radford et al. 2021) from a local folder, for the similarity of frames and a text."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoTokenizer, CLIPModel
        from transformers.utils import logging

        logging.disable_progress_bar()

        if not Path(folder).is_dir():
            raise ValueError(f"{folder} is not a folder: give one with a CLIP model and its tokenizer")
        self._model: Any = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    @torch.inference_mode()
    def similarity(self, frames: np.ndarray, text: str) -> float:
        """Mean cosine of frames uint8 `(N, H, W, 3)` with a text, -1 to 1."""
        size = self._model.config.vision_config.image_size
        mean, deviation = (torch.tensor(x)[:, None, None] for x in (_CLIP_MEAN, _CLIP_DEVIATION))
        pixels = rearrange(torch.from_numpy(frames), "n h w c -> n c h w").float() / 255
        pixels = torch.nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
        tokens = self._tokenizer([text], return_tensors="pt", truncation=True)
        output = self._model(pixel_values=(pixels - mean) / deviation, **tokens)
        cosines = torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds)
        return float(cosines.mean())


_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@functools.cache
def torchscript(path: str) -> TorchScriptNetwork:
    """A TorchScript network, loaded once a process."""
    return TorchScriptNetwork(path)


@functools.cache
def clip(folder: str) -> ClipNetwork:
    """A CLIP model, loaded once a process."""
    return ClipNetwork(folder)

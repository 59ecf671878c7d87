"""Model: the networks of one checkpoint, built from one config."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from gamegen.constants import SPATIAL_FACTOR
from gamegen.models.exemplars import Exemplars
from gamegen.models.instructnet import InstructNet, InstructNetConfig
from gamegen.models.motion import MotionConfig, MotionNetwork
from gamegen.models.msdit import MSDiT, MSDiTConfig
from gamegen.models.network_inputs import VideoFormat
from gamegen.models.sampling import SamplingConfig
from gamegen.models.vae import CausalVideoVAE, VAEConfig, encode_frames


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to rebuild a model; parts that are None are absent from the checkpoint.

    `latent_mean` and `latent_std` have one value per channel; `width` and `height` (pixels) are the default size.
    """

    vae: VAEConfig = field(default_factory=VAEConfig)
    foundation: MSDiTConfig | None = None
    instructnet: InstructNetConfig | None = None
    motion: MotionConfig | None = None
    text_encoder: str = "minilm"
    width: int = 160
    height: int = 96
    latent_mean: tuple[float, ...] = ()
    latent_std: tuple[float, ...] = ()
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        if self.foundation and self.foundation.latent_channels != self.vae.latent_channels:
            raise ValueError(
                f"foundation.latent_channels = {self.foundation.latent_channels}, but the VAE has "
                f"{self.vae.latent_channels}: make them equal"
            )
        if self.foundation and self.foundation.motion_compensation and self.motion is None:
            raise ValueError(
                "foundation.motion_compensation is true, but there is no motion network: "
                "train one (gamegen train motion), or set it to false"
            )
        if self.foundation and self.foundation.motion_compensation and not self.vae.linear_encoder:
            raise ValueError(
                "foundation.motion_compensation is true, but the encoder is not linear, and mixes each chunk with the "
                "one before it: set vae.linear_encoder to true, or motion_compensation to false"
            )
        if self.vae.streaming_reference and self.motion is None:
            raise ValueError(
                "vae.streaming_reference is true, but there is no motion network to move the frame shown last: "
                "train one (gamegen train motion), or set it to false"
            )

    @classmethod
    def tiny(cls) -> ModelConfig:
        """For tests: every part at its smallest, 32x32 pixels."""
        return cls(
            vae=VAEConfig.tiny(),
            foundation=MSDiTConfig.tiny(),
            instructnet=InstructNetConfig.tiny(),
            width=32,
            height=32,
            sampling=SamplingConfig(num_steps=2, first_steps=3),
        )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one latent frame at the default size."""
        return (self.vae.latent_channels, self.height // SPATIAL_FACTOR, self.width // SPATIAL_FACTOR)


class Model(nn.Module):
    """The parts of one checkpoint; attributes of absent parts are None."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.may_compile: bool | None = False
        """True compiles the networks (`gamegen.models.onnx`), False never does, None if a graph is kept."""
        self.int8_layers: tuple[str, ...] = ()
        """Names of the layers that are quantised in a compiled graph."""
        self.decoder_reference = True
        """False hides the frame shown last from the streaming decoder in play."""
        self.recalls_views = True
        """False keeps no earlier views in play (`gamegen.models.view_memory`)."""
        self.exemplars: Exemplars | None = None
        """Recorded pictures that give a world in play the detail it loses; None for models without a gallery."""
        self.vae = CausalVideoVAE(config.vae)
        self.foundation = MSDiT(config.foundation) if config.foundation else None
        self.instructnet = (
            InstructNet(config.instructnet, config.foundation)
            if config.instructnet and config.foundation
            else None
        )
        self.motion = MotionNetwork(config.motion) if config.motion else None
        self.set_statistics()

    def set_statistics(self) -> None:
        """Sets the latents' mean and deviation from the config; needed again after building on the meta device."""
        channels = self.config.vae.latent_channels
        with torch.device("cpu"):
            mean = _channels(self.config.latent_mean or (0.0,) * channels)
            std = _channels(self.config.latent_std or (1.0,) * channels)
        self.register_buffer("mean_C", mean, persistent=False)
        self.register_buffer("std_C", std, persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def follows_shown_frames(self) -> bool:
        """True if generation reads the last decoded frames: motion compensation, or a decoder with a reference."""
        return self.vae.streaming.sees_reference or bool(
            self.foundation and self.foundation.config.motion_compensation
        )

    @property
    def video_format(self) -> VideoFormat:
        """Format of a clip of the default size."""
        return VideoFormat(aspect_ratio=self.config.width / self.config.height)

    def normalise(self, latent: Tensor) -> Tensor:
        """Scales VAE latents `(..., C, h, w)` to zero mean and unit variance per channel."""
        return (latent - self.mean_C) / self.std_C

    def denormalise(self, latent: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return latent * self.std_C + self.mean_C

    def encode(self, frames: np.ndarray) -> Tensor:
        """Normalised latents `(n, C, h, w)`, float32 on the CPU, of uint8 frames `(4n, H, W, 3)`."""
        latents = torch.from_numpy(encode_frames(frames, self.vae)).float()
        return self.normalise(latents.to(self.device)).cpu()


def _channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]

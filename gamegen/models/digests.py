"""SHA-256 of the weights that latents depend on: what two models must share to read each other's latents."""

from __future__ import annotations

import hashlib

from torch import Tensor

from gamegen.models.model import Model


def vae_sha256(model: Model) -> str:
    """SHA-256 of the weights that encoded clips depend on: those of the encoder, and of the motion network if any."""
    parts: dict[str, Tensor] = dict(model.vae.encoder.state_dict())
    if model.motion is not None:
        parts |= {f"MotionNetwork.{name}": tensor for name, tensor in model.motion.state_dict().items()}
    return _sha256(parts)


def latents_sha256(model: Model) -> str:
    """SHA-256 of everything that normalised latents depend on: the encoder, and the statistics of `normalise`."""
    statistics = [*map(float, model.config.latent_mean)], [*map(float, model.config.latent_std)]
    return _sha256(model.vae.encoder.state_dict(), str(statistics))


def _sha256(weights: dict[str, Tensor], more: str = "") -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    digest.update(more.encode())
    return digest.hexdigest()

"""Numbers that models, media and the protocol share: the frame rate and the factors between pixels and latents."""

FPS = 24
"""Frames a second of all footage and play."""
FRAMES_PER_CHUNK = 4
"""Frames that one latent frame (a chunk) holds, and that one control covers."""
SPATIAL_FACTOR = 8
"""Pixels along a side of one latent."""
TEMPORAL_FACTOR = FRAMES_PER_CHUNK
"""Frames that the autoencoder folds into one latent frame."""
SIZE_MULTIPLE = 16
"""Pixels along a side of one token: 8 by the autoencoder, 2 by the transformer's patches."""

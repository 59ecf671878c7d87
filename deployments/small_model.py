"""A model for trials of the service rather than of a model."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_model() -> Iterator[str]:
    """A checkpoint of random weights at their smallest."""
    from gamegen.models.checkpoint import ModelConfig, save_random

    with tempfile.TemporaryDirectory(prefix="gamegen-model-") as folder:
        save_random(Path(folder), ModelConfig.tiny())
        yield folder

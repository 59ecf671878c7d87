"""Smallest possible model, for tests of the service rather than of a model."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_model() -> Iterator[str]:
    """A checkpoint with random weights and the smallest sizes."""
    from gamegen.models.checkpoint import save_random
    from gamegen.models.model import ModelConfig

    with tempfile.TemporaryDirectory(prefix="gamegen-model-") as folder:
        save_random(Path(folder), ModelConfig.tiny())
        yield folder

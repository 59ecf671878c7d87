"""Pictures of a training run: contact sheets as PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def save_sheet(sheet: np.ndarray, path: Path) -> None:
    """Writes a contact sheet, uint8 `(H, W, 3)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)

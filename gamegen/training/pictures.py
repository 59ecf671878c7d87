"""Pictures of a training run: loss curves and contact sheets as PNG."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def save_sheet(sheet: np.ndarray, path: Path) -> None:
    """Writes a contact sheet, uint8 `(H, W, 3)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)


def save_curves(history: list[dict[str, float]], path: Path) -> None:
    """Plots every logged number but the step against the step, one small chart each."""
    names = [name for name in history[-1] if name not in ("step", "elapsed_s")]
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        axis.plot([row["step"] for row in history], [row.get(name, np.nan) for row in history])
        axis.set_title(name)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)

"""One picture of a whole data set: a frame of each clip, labelled by where, when and in what weather."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from gamegen.curation import shards
from gamegen.media.mp4 import read_mp4

LABEL_HEIGHT_PX = 22


def draw_sheet(tiles: list[tuple[np.ndarray, str]], columns: int) -> Image.Image:
    """Tiles of uint8 `(H, W, 3)` frames of any size with a label of up to two lines under each."""
    if not tiles:
        raise ValueError("a contact sheet needs at least one clip; the data set is empty")
    width = max(frame.shape[1] for frame, _ in tiles)
    height = max(frame.shape[0] for frame, _ in tiles) + LABEL_HEIGHT_PX
    sheet = Image.new("RGB", (width * columns, height * math.ceil(len(tiles) / columns)))
    draw = ImageDraw.Draw(sheet)
    for index, (frame, label) in enumerate(tiles):
        x, y = width * (index % columns), height * (index // columns)
        sheet.paste(Image.fromarray(frame), (x, y))
        draw.multiline_text((x + 2, y + height - LABEL_HEIGHT_PX), label, font_size=9, spacing=1)
    return sheet


def write_contact_sheet(folder: Path, path: Path, max_clips: int = 480, columns: int = 16) -> int:
    """Draws the first frame of up to `max_clips` shard rows, evenly spread; returns how many were drawn."""
    total = sum(1 for _ in shards.read_rows(folder, ["clip_id"]))
    if not total:
        return 0
    chosen = set(np.unique(np.linspace(0, total - 1, min(total, max_clips)).round().astype(int)).tolist())
    columns_read = ["video", "biome", "weather", "time_of_day", "view", "split"]
    rows = (row for i, row in enumerate(shards.read_rows(folder, columns_read)) if i in chosen)
    tiles = list(_tiles(rows))
    draw_sheet(tiles, min(columns, len(tiles))).save(path)
    return len(tiles)


def _tiles(rows: Iterable[dict]) -> Iterable[tuple[np.ndarray, str]]:
    for row in rows:
        first = [(row[name] or ["?"])[0] for name in ("biome", "weather", "time_of_day", "view")]
        label = f"{first[0]}, {first[1]}\n{first[2]}, {first[3]} person, {row['split']}"
        yield read_mp4(row["video"], max_frames=1)[0], label

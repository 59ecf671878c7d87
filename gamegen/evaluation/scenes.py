"""Scene classifiers: weather, time of day, biome and view, recognised by small heads on image features.

The heads are trained on recorded truth and applied to generated frames; their accuracy on held-out real clips is in
their card, and is the most that any world can reach.

    python -m gamegen.evaluation.scenes train --data data/curated --output runs/scenes
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gamegen.curation import shards
from gamegen.curation.encoded import ALIKE
from gamegen.evaluation.features import feature_network
from gamegen.evaluation.motion import luminance
from gamegen.files import write_atomically
from gamegen.media.mp4 import read_mp4
from gamegen.models.checkpoint import CARD_FILE, WEIGHTS_FOLDER
from gamegen.models.file_faults import file_fault
from gamegen.process.command import run_command

ATTRIBUTES = ("biome", "weather", "time_of_day", "view")
WINDOW_FRAMES = 8
"""Frames (a third of a second) that one description covers."""
HEADS_FILE = "heads.safetensors"
HELD_OUT = ("validation", "test")
_BANDS = 3
_TRUTH_COLUMNS = ["clip_id", "video", *ATTRIBUTES]


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """Settings of the heads' training.

    A window every `stride_frames` of a clip gives one example; windows that a change came less than `settle_frames`
    before are left out. `hidden` is the width of each head, `dropout` the share of features that it loses.
    """

    stride_frames: int = 48
    settle_frames: int = 16
    hidden: int = 64
    dropout: float = 0.5
    epochs: int = 15
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05


@dataclass(frozen=True)
class Examples:
    """Descriptions `(N, D)` float32 and, for each attribute, N true values."""

    descriptions: np.ndarray
    truth: dict[str, list[str]]


class SceneHeads(nn.Module):
    """One small MLP an attribute, on standardised descriptions."""

    mean_D: Tensor
    deviation_D: Tensor

    def __init__(
        self, size: int, labels: dict[str, list[str]], config: ScenesConfig = ScenesConfig()
    ) -> None:
        super().__init__()
        self.labels = labels
        self.register_buffer("mean_D", torch.zeros(size))
        self.register_buffer("deviation_D", torch.ones(size))
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Dropout(config.dropout),
                    nn.Linear(size, config.hidden),
                    nn.GELU(),
                    nn.Linear(config.hidden, len(values)),
                )
                for name, values in labels.items()
            }
        )

    def forward(self, description_ND: Tensor) -> dict[str, Tensor]:
        """Logits `(N, classes)` by attribute."""
        x = (description_ND - self.mean_D) / self.deviation_D
        return {name: head(x) for name, head in self.heads.items()}

    @torch.inference_mode()
    def probabilities(self, descriptions: np.ndarray) -> dict[str, np.ndarray]:
        """Probabilities `(N, classes)` by attribute, in the order of `labels`, of descriptions `(N, D)`."""
        logits = self(torch.from_numpy(descriptions).float())
        return {name: value.softmax(-1).numpy() for name, value in logits.items()}

    def accuracy(self, examples: Examples) -> dict[str, float]:
        """Accuracy by attribute."""
        return {name: float(right.mean()) for name, right in self._right(examples).items()}

    def accuracy_by_value(self, examples: Examples) -> dict[str, dict[str, float]]:
        """Accuracy over the examples of each value, by attribute and value."""
        right = self._right(examples)
        return {
            name: {value: float(right[name][np.array(true) == value].mean()) for value in sorted(set(true))}
            for name, true in examples.truth.items()
        }

    def _right(self, examples: Examples) -> dict[str, np.ndarray]:
        told = self.probabilities(examples.descriptions)
        return {
            name: np.array(self.labels[name])[told[name].argmax(1)] == np.array(true)
            for name, true in examples.truth.items()
        }


def describe(window: np.ndarray) -> np.ndarray:
    """Description float32 `(D,)` of a window of frames uint8 `(T, H, W, 3)`, T at least 2.

    Features of the first, middle and last frame, averaged; means and deviations of colour and mean change from frame
    to frame in three bands from top to bottom.
    """
    frames = window[np.linspace(0, len(window) - 1, 3).round().astype(int)]
    maps = feature_network().maps(frames)
    centre, border = maps.centre_and_border()
    fine = maps.fine.flatten(2)
    features = [maps.pooled(), centre, border, fine.mean(2).numpy(), fine.std(2).numpy()]
    bands = np.array_split(window, _BANDS, 1)
    colours = [f(band, (0, 1, 2)) / 255 for band in bands for f in (np.mean, np.std)]
    changes = [np.abs(np.diff(luminance(band), axis=0)).mean(keepdims=True)[0, 0] / 255 for band in bands]
    return np.concatenate([*(part.mean(0) for part in features), *colours, *changes]).astype(np.float32)


def examples_of(rows: Iterable[dict[str, Any]], config: ScenesConfig) -> Examples:
    """Descriptions and truth of clips, rows of curated shards; raises ValueError if no window is usable."""
    descriptions, truth = [], {name: list[str]() for name in ATTRIBUTES}
    for row in track(rows, "describing clips", transient=True):
        frames = read_mp4(row["video"])
        for start in range(0, len(frames) - WINDOW_FRAMES + 1, config.stride_frames):
            end = start + WINDOW_FRAMES
            seen = [set(row[name][max(0, start - config.settle_frames) : end]) for name in ATTRIBUTES]
            if all(len(values) == 1 for values in seen):
                descriptions.append(describe(frames[start:end]))
                for name, values in zip(ATTRIBUTES, seen, strict=True):
                    truth[name] += [ALIKE.get(value, value) for value in values]
    if not descriptions:
        raise ValueError(f"no clip stays the same for {WINDOW_FRAMES} frames: give more clips")
    return Examples(np.stack(descriptions), truth)


def train_heads(examples: Examples, config: ScenesConfig = ScenesConfig(), seed: int = 0) -> SceneHeads:
    """Trains heads on examples; rare values count as much as frequent ones."""
    torch.manual_seed(seed)
    labels = {name: sorted(set(values)) for name, values in examples.truth.items()}
    x = torch.from_numpy(examples.descriptions)
    heads = SceneHeads(x.shape[1], labels, config)
    heads.mean_D.copy_(x.mean(0))
    heads.deviation_D.copy_(x.std(0).clamp_min(1e-3))
    target = {
        name: torch.tensor([labels[name].index(v) for v in values]) for name, values in examples.truth.items()
    }
    weight = {name: len(t) / (len(labels[name]) * torch.bincount(t).float()) for name, t in target.items()}
    optimiser = torch.optim.AdamW(heads.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    steps = config.epochs * -(-len(x) // config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(config.epochs):
        for batch in torch.randperm(len(x)).split(config.batch_size):
            logits = heads(x[batch])
            losses = [F.cross_entropy(logits[n], target[n][batch], weight[n]) for n in labels]
            optimiser.zero_grad()
            torch.stack(losses).sum().backward()
            optimiser.step()
            schedule.step()
    return heads.eval()


def save_scenes(heads: SceneHeads, folder: Path, card: dict[str, Any]) -> None:
    """Writes heads as float16 and a card that names their labels, and the SHA-256 of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    with write_atomically(folder / HEADS_FILE) as partial:
        save_file({name: value.half() for name, value in heads.state_dict().items()}, partial)
    sha256 = hashlib.sha256((folder / HEADS_FILE).read_bytes()).hexdigest()
    whole = {"labels": heads.labels, **card, "sha256": {HEADS_FILE: sha256}}
    (folder / CARD_FILE).write_text(json.dumps(whole, indent=2) + "\n")


def load_scenes(folder: Path = WEIGHTS_FOLDER / "scenes") -> tuple[SceneHeads, dict[str, Any]]:
    """Heads and their card, the shipped ones by default; raises ValueError if they are missing or damaged."""
    try:
        card = json.loads((folder / CARD_FILE).read_text())
        data = (folder / HEADS_FILE).read_bytes()
    except OSError as error:
        raise ValueError(
            f"no scene heads in {folder}: train some (python -m gamegen.evaluation.scenes)"
        ) from error
    if hashlib.sha256(data).hexdigest() != card["sha256"][HEADS_FILE]:
        other = "is damaged: its SHA-256 is not that of its card; copy it again"
        raise ValueError(f"{folder / HEADS_FILE} {file_fault(folder / HEADS_FILE) or other}")
    weights = {name: value.float() for name, value in load_file(folder / HEADS_FILE).items()}
    width = weights[f"heads.{ATTRIBUTES[0]}.1.weight"].shape[0]
    heads = SceneHeads(len(weights["mean_D"]), card["labels"], ScenesConfig(hidden=width))
    heads.load_state_dict(weights)
    return heads.eval(), card


app = typer.Typer(no_args_is_help=True, help="Classifiers of scenes, for judging worlds.")


@app.callback()
def _commands() -> None:
    """Keeps `train` a command of its own name."""


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="curated shards")],
    output: Annotated[Path, typer.Option(help="folder for the heads and their card")],
) -> None:
    """Trains heads on the train split; the other splits say how often they are right.

    Example: python -m gamegen.evaluation.scenes train --data data/curated --output runs/scenes
    """
    config = ScenesConfig()
    examples, held_out = (examples_of(_rows(data, splits), config) for splits in (("train",), HELD_OUT))
    accuracy = train_and_save(examples, held_out, output, config)
    table = Table("attribute", "held-out accuracy", title=str(output))
    for name, value in accuracy.items():
        table.add_row(name, f"{value:.3f}")
    Console().print(table)


def train_and_save(
    examples: Examples, held_out: Examples, output: Path, config: ScenesConfig
) -> dict[str, float]:
    """Trains heads, writes them with a card of their accuracy on held-out examples, and returns it by attribute."""
    heads = train_heads(examples, config)
    accuracy = heads.accuracy(held_out)
    card = {
        "stage": "scenes",
        "num_windows": {"train": len(examples.descriptions), "held out": len(held_out.descriptions)},
        "held_out_accuracy": accuracy,
        "held_out_accuracy_by_value": heads.accuracy_by_value(held_out),
    }
    save_scenes(heads, output, card)
    return accuracy


def _rows(data: Path, splits: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    files = [
        path for path in shards.part_files(data) if path.parent.parent.name.removeprefix("split=") in splits
    ]
    if not files:
        raise ValueError(f"no curated shards of {' or '.join(splits)} under {data}: run gamegen curate first")
    return shards.read_rows(data, _TRUTH_COLUMNS, splits)


if __name__ == "__main__":
    run_command(app)

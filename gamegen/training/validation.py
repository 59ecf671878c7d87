"""Validation beside training: loss and sample sheet of the averaged weights on held-out clips.

It runs in a thread, not in a process: a thread reads the weights where they lie, on a GPU too, where
a process would need a second context and a copy across, and PyTorch lets go of the interpreter while it computes.
On a CPU it takes a share of the cores for as long as it runs, as a process would. A lower priority would be worse: a
thread that waits its turn while it holds the interpreter makes training wait as well.
"""

from __future__ import annotations

import copy
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gamegen.curation.row_groups import shard_files
from gamegen.device import autocast
from gamegen.training.feed import Feed, WindowDataset
from gamegen.training.objectives.objective import Objective
from gamegen.training.stage_config import StageConfig
from gamegen.training.window_plan import WindowPlan, index_clips


@dataclass(frozen=True)
class HeldOut:
    """Source of the fixed validation batches: `split` names the split, `batches` reads them."""

    split: str
    batches: Callable[[], list[Any]]


@dataclass(frozen=True)
class Validation:
    """Result of one validation: mean metrics over the batches, a sheet uint8 `(H, W, 3)`, and its duration."""

    step: int
    metrics: dict[str, float]
    sheet: np.ndarray
    took_s: float


def held_out(config: StageConfig, data: Path, dataset: WindowDataset) -> HeldOut | None:
    """The validation batches of a folder of shards, equal for every run with the same seed.

    Little footage may have no validation split; then the training split stands in, and `split` says so. None if
    the stage asks for no batches.
    """
    if not config.validation_batches:
        return None
    # One micro-batch of the first bucket at a time, as training has it in memory.
    alone = replace(
        config,
        batch_size=config.batch_size // config.micro_batches,
        micro_batches=1,
        buckets=config.buckets[:1],
    )
    split = "validation" if shard_files(data, "validation") else "train"
    return HeldOut(split, lambda: _read_batches(alone, data, split, dataset))


def _read_batches(config: StageConfig, data: Path, split: str, dataset: WindowDataset) -> list[Any]:
    feed = Feed(WindowPlan(config, index_clips(data, split, dataset.length_column)), dataset)
    steps = itertools.islice(feed.batches(0, feed.start()), config.validation_batches)
    return [batch for step in steps for _, batch in step.micro_batches]


class Validator:
    """Validates snapshots of an objective in the background, at most one at a time.

    `start` copies the averaged weights, which takes as long as copying them does, and comes back; `done` is called
    with the result from the thread, `failed` with a sentence if there is none.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Callable[[], list[Any]],
        done: Callable[[Validation], None],
        failed: Callable[[str], None],
    ) -> None:
        self._objective, self._read_batches = objective, batches
        self._done, self._failed = done, failed
        self._copy: Objective | None = None
        self._batches: list[Any] | None = None
        self._thread: threading.Thread | None = None

    def start(self, step: int, averaged: dict[str, Tensor]) -> bool:
        """Starts to validate `averaged` (named as the trained modules' weights); false if the last still runs."""
        if self._thread is not None and self._thread.is_alive():
            return False
        snapshot = self._snapshot(averaged)
        self._thread = threading.Thread(
            target=self._run, args=(snapshot, step), name="validation", daemon=True
        )
        self._thread.start()
        return True

    def finish(self) -> None:
        """Waits for a running validation."""
        if self._thread is not None:
            self._thread.join()

    @torch.no_grad()
    def _snapshot(self, averaged: dict[str, Tensor]) -> Objective:
        if self._copy is None:
            self._copy = copy.deepcopy(self._objective)
        for name, weight in named_weights(self._copy.trained_modules()).items():
            weight.copy_(averaged[name])
        self._copy.restore(self._objective.state())
        return self._copy

    def _run(self, objective: Objective, step: int) -> None:
        began = time.perf_counter()
        try:
            if self._batches is None:
                self._batches = self._read_batches()
            metrics = measure(objective, self._batches)
            sheet = objective.sheet(self._batches[0])
        except Exception as error:
            # Whatever it was (memory, a broken shard), training can do without this validation.
            self._failed(f"validation at step {step} failed: {error!r}")
            return
        self._done(Validation(step, metrics, sheet, time.perf_counter() - began))


def named_weights(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers of several modules, named `module.parameter`."""
    return {
        f"{prefix}.{name}": weight
        for prefix, module in modules.items()
        for name, weight in module.state_dict(keep_vars=True).items()
    }


@torch.no_grad()
def measure(objective: Objective, batches: list[Any]) -> dict[str, float]:
    """Mean loss and metrics over the batches, with fixed noise from generators of its own."""
    device = objective.model.device
    totals: dict[str, float] = {}
    for i, batch in enumerate(batches):
        with autocast(device):
            # Progress 0 is the plain objective: what changes over a run would hide what the model learns.
            loss, metrics = objective.loss(batch, torch.Generator().manual_seed(i), 0.0)
        for name, value in {"loss": loss.item(), **metrics}.items():
            totals[name] = totals.get(name, 0.0) + value / len(batches)
    return totals

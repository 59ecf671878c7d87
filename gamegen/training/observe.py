"""Observer of a training run: throughput, TensorBoard events, validation in the background, the run's page."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import yaml
from torch import Tensor

from gamegen.config import to_dict
from gamegen.files import write_atomically
from gamegen.training.device_peak import Peak, device_peak
from gamegen.training.objectives.objective import Objective
from gamegen.training.parallel import is_sharded
from gamegen.training.run_page import RunFacts, Sheet, render
from gamegen.training.stages.stage import Stage
from gamegen.training.throughput import Throughput
from gamegen.training.validation import HeldOut, Validation, Validator

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

PAGE_FILE = "run.html"
VALIDATION_FILE = "validation.jsonl"
EVENTS_FOLDER = "tensorboard"
SHEETS_FOLDER = "sheets"
_SHEETS_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Output folder of a run, and the command, data and checkpoint that its page names."""

    output: Path
    command: str = ""
    data: str = ""
    init: str = ""


class Observer:
    """Measures every process's steps; with `writes` (rank 0) it also writes logs, sheets and the page.

    The trainer calls `throughput.fetch` and `throughput.finish_step` each step, `log` with each row of its log,
    `save` with the averaged weights, and `close` at the end.
    """

    def __init__(
        self,
        objective: Objective,
        config: Stage,
        context: RunContext,
        held_out: HeldOut | None = None,
        world_size: int = 1,
        writes: bool = True,
    ) -> None:
        self.objective = objective
        self.config = config
        self.context = context
        self.writes = writes
        self.peak = device_peak(objective.model.device)
        self.throughput = Throughput(
            cost_of=partial(config.batch_cost, objective.model.config),
            # Processes that share a window each do a part of the operations that are counted for it.
            peak_flops_per_s=config.parallel.sequence * self.peak.flops_per_s,
            world_size=world_size,
        )
        self.rows: list[dict[str, float]] = []
        self.validations: list[dict[str, float]] = []
        self.sheets: list[Sheet] = []
        self.notes: list[str] = []
        # The validation thread reports while training logs.
        self._lock = threading.Lock()
        self._events: SummaryWriter | None = None
        self._facts: RunFacts | None = None
        self._validator = self._make_validator(held_out) if writes else None

    def log(self, rows: list[dict[str, float]]) -> None:
        """Adds the last row of the log to events and page."""
        if not self.writes:
            return
        row = rows[-1]
        with self._lock:
            self.rows = rows
            self._begin(int(row["step"]))
            self._add_scalars(row, "training")
            self._write_page(alive=True)

    def save(self, step: int, averaged: dict[str, Tensor], last: bool = False) -> None:
        """Starts validation of the averaged weights; only the `last` waits for the validation before it."""
        if not self.writes:
            return
        with self._lock:
            self._begin(step)
        if self._validator is not None:
            if last:
                self._validator.finish()
            if not self._validator.start(step, averaged):
                self._note(f"no validation at step {step}: the one before it was still running")
        with self._lock:
            self._write_page(alive=not last)

    def close(self) -> None:
        """Waits for a running validation and writes the page for the last time."""
        if self._validator is not None:
            self._validator.finish()
        if self._events is None:
            return
        with self._lock:
            self._write_page(alive=False)
            self._events.close()
            self._events = None

    def describe(self) -> str:
        """The latest rates, for a progress bar."""
        return self.throughput.describe()

    def _make_validator(self, held_out: HeldOut | None) -> Validator | None:
        if held_out is None:
            return None
        if is_sharded(self.config.parallel) or self.objective.shared_time is not None:
            self.notes.append(
                "no validation: weights or windows are shared by processes, so one cannot run the model alone"
            )
            return None
        if held_out.split != "validation":
            self.notes.append(f"there is no validation split; its stand-in is the {held_out.split} split")
        return Validator(self.objective, held_out.batches, self._validated, self._note)

    def _begin(self, step: int) -> None:
        """Opens the event file at the first write; a resumed run appends to the files it finds."""
        from tensorboardX import SummaryWriter

        if self._events is not None:
            return
        folder = self.context.output
        folder.mkdir(parents=True, exist_ok=True)
        # Two files begun in the same second would have the same name.
        self._events = SummaryWriter(
            str(folder / EVENTS_FOLDER), purge_step=step, filename_suffix=f".{step}.{os.getpid()}"
        )
        self._facts = run_facts(self.objective, self.config, self.context, self.peak)
        self._recall(step)

    def _recall(self, step: int) -> None:
        """Loads validations and sheets of an earlier part of this run."""
        from PIL import Image

        file = self.context.output / VALIDATION_FILE
        if file.is_file():
            found = [json.loads(line) for line in file.read_text().splitlines()]
            self.validations = [row for row in found if row["step"] < step]
            file.write_text("".join(json.dumps(row) + "\n" for row in self.validations))
        pictures = sorted((self.context.output / SHEETS_FOLDER).glob("*.png"))
        earlier = [picture for picture in pictures if int(picture.stem) < step][-_SHEETS_SHOWN:]
        self.sheets = [Sheet.of(int(p.stem), np.asarray(Image.open(p).convert("RGB"))) for p in earlier]

    def _validated(self, result: Validation) -> None:
        from PIL import Image

        row = {"step": result.step, **result.metrics}
        sheet_file = self.context.output / SHEETS_FOLDER / f"{result.step:06d}.png"
        sheet_file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(result.sheet).save(sheet_file)
        with self._lock:
            assert self._events is not None
            self.validations.append(row)
            self.sheets = [*self.sheets, Sheet.of(result.step, result.sheet)][-_SHEETS_SHOWN:]
            with (self.context.output / VALIDATION_FILE).open("a") as file:
                file.write(json.dumps({**row, "took_s": round(result.took_s, 2)}) + "\n")
            self._add_scalars(row, "validation")
            self._events.add_image("sheet", result.sheet, result.step, dataformats="HWC")
            self._write_page(alive=True)

    def _note(self, sentence: str) -> None:
        with self._lock:
            self.notes.append(sentence)

    def _add_scalars(self, row: dict[str, float], kind: str) -> None:
        assert self._events is not None
        for name, value in row.items():
            if name != "step":
                self._events.add_scalar(f"{name}/{kind}", value, int(row["step"]))

    def _write_page(self, alive: bool) -> None:
        assert self._facts is not None
        step = int(self.rows[-1]["step"]) if self.rows else 0
        elapsed_s = self.rows[-1]["elapsed_s"] if self.rows else 0.0
        status = f"step {step:,} of at most {self.config.steps:,}, {elapsed_s / 60:.1f} minutes of training"
        page = render(
            facts=self._facts,
            status=status,
            rows=self.rows,
            validations=self.validations,
            sheets=self.sheets,
            notes=self.notes,
            alive=alive,
        )
        with write_atomically(self.context.output / PAGE_FILE) as partial:
            partial.write_text(page)


def run_facts(objective: Objective, config: Stage, context: RunContext, peak: Peak) -> RunFacts:
    """The command line, the configuration and the machine of a run."""
    device = objective.model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    machine = {
        "host": platform.node(),
        "device": f"{device.type}, {name}",
        "CPU cores": str(os.cpu_count()),
        "peak": f"{peak.flops_per_s / 1e12:.3g} TFLOP/s ({peak.source})",
        "Python, PyTorch": f"{platform.python_version()}, {torch.__version__}",
        "data": context.data or "-",
        "initialised from": context.init or "-",
    }
    if revision := git_revision(Path(__file__)):
        machine["git revision"] = revision
    parts = {"stage": to_dict(config), "model": to_dict(objective.model.config)}
    settings = json.loads(json.dumps(parts))
    return RunFacts(
        title=f"{config.stage}: {context.output.name}",
        command=context.command or shlex.join(sys.orig_argv),
        config=yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100),
        machine=machine,
    )


def git_revision(file: Path) -> str | None:
    """The commit that `file` is checked out from, marked if files differ from it; None if git does not keep it.

    The folder alone would not do: a package may be installed into a folder of somebody else's repository.
    """
    if shutil.which("git") is None or not _git(file.parent, "ls-files", "--", file.name):
        return None
    return _git(file.parent, "describe", "--always", "--dirty", "--abbrev=40") or None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

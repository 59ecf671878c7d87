"""Trains a pack, stage after stage: `cd burst && python -m gamegen.training.burst --data . --output out --minutes 8`.

The same command again goes on where the last one stopped. It needs what a pack does not hold: PyTorch, OpenCV, NumPy
and safetensors.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.curation.encoded_clip import compensated_columns
from gamegen.curation.packed import PieceWriter
from gamegen.curation.row_groups import column_by_group, read_rows_of, shard_files
from gamegen.files import file_sha256
from gamegen.media.mp4 import read_mp4
from gamegen.models.checkpoint import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, load_checkpoint, read_json
from gamegen.models.model import Model
from gamegen.process.command import run_program
from gamegen.training.burst_plan import (
    CURATED_FOLDER,
    ENCODED_FOLDER,
    INIT_FOLDER,
    MANIFEST_FILE,
    PLAN_FILE,
    load_plan,
)
from gamegen.training.loop import Run
from gamegen.training.memory_feed import windows_in_memory
from gamegen.training.run_stage import run_stage
from gamegen.training.stages.foundation import STATISTICS_FILE
from gamegen.training.stages.stage import Stage

DONE_FILE = "done"
"""Marks the folder of a stage that came to its end."""
NOT_YET = 75
"""Exit code of a burst that has to go on (`EX_TEMPFAIL`)."""
_LINE_EVERY_S = 3.0


class Burst:
    """The stages of a pack, each in a folder of `output`: `1-motion` and so on."""

    def __init__(self, data: Path, output: Path) -> None:
        self.data = data
        self.output = output
        self.plan = load_plan(data / PLAN_FILE)
        self._printed_s = 0.0

    def run(self) -> Path:
        """Trains what is left and returns `output`, by then a checkpoint.

        Raises KeyboardInterrupt once a stage that was stopped is saved.
        """
        folder = self.data / INIT_FOLDER
        stages = self.plan.build()
        for number, (stage, entry) in enumerate(zip(stages, self.plan.stages, strict=True), 1):
            init, folder = folder, self.output / f"{number}-{stage.stage}"
            if (folder / DONE_FILE).exists():
                continue
            print(f"stage {number} of {len(stages)}: {stage.stage}, {entry.minutes:g} minutes", flush=True)
            self._train(stage, entry.minutes, init, folder)
            (folder / DONE_FILE).touch()
        for name in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE):
            shutil.copyfile(folder / name, self.output / name)
        return self.output

    def _train(self, stage: Stage, minutes: float, init: Path, folder: Path) -> None:
        data = self.data / CURATED_FOLDER if stage.shards == "curated" else self._encoded()
        run = Run(
            output=folder,
            minutes=minutes,
            data=str(data),
            init=str(init),
            show_progress=False,
            on_log=lambda row: self._print(stage, minutes, row),
            is_observed=False,
        )
        run_stage(stage, data, run, init=init, source=windows_in_memory)
        if stage.stage == "motion" and self.plan.reads("encoded"):
            print("encoding motion-compensated latents with the trained motion network", flush=True)
            compensate(self.data, load_checkpoint(folder).model, self.output / ENCODED_FOLDER)

    def _encoded(self) -> Path:
        """Folder of the encoded shards: those of the pack, or re-encoded ones once the motion network was trained."""
        anew = self.output / ENCODED_FOLDER
        return anew if anew.exists() else self.data / ENCODED_FOLDER

    def _print(self, stage: Stage, minutes: float, row: dict[str, float]) -> None:
        if time.monotonic() - self._printed_s < _LINE_EVERY_S:
            return
        self._printed_s = time.monotonic()
        print(
            f"{stage.stage} step {row['step']:.0f} of at most {stage.steps}, {row['elapsed_s']:.0f} of "
            f"{60 * minutes:.0f} s, loss {row['loss']:.4f}, {row.get('samples_per_s', 0):.1f} windows/s, "
            f"waiting {row.get('input_wait_share', 0):.0%}",
            flush=True,
        )


def compensate(data: Path, model: Model, output: Path) -> None:
    """Packs the encoded shards of the pack `data` anew, with the motion-compensated latents of `model`.

    Raises ValueError for an encoded clip that is not among the curated ones.
    """
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split in ("train", "validation"):
        places = {
            clip_id: (file, group, row)
            for file in shard_files(data / CURATED_FOLDER, split)
            for group, ids in enumerate(column_by_group(file, "clip_id"))
            for row, clip_id in enumerate(ids)
        }
        for file in shard_files(data / ENCODED_FOLDER, split):
            stem = partial / file.relative_to(data / ENCODED_FOLDER).with_suffix("")
            with PieceWriter(stem) as writer:
                for group, ids in enumerate(column_by_group(file, "clip_id")):
                    rows = read_rows_of(file, group, range(len(ids)))
                    writer.write([row | _compensated_columns(row, places, model) for row in rows])
    statistics = data / ENCODED_FOLDER / STATISTICS_FILE
    if statistics.is_file():
        shutil.copyfile(statistics, partial / STATISTICS_FILE)
    partial.rename(output)


def _compensated_columns(
    row: dict[str, Any], places: dict[str, tuple[Path, int, int]], model: Model
) -> dict[str, bytes]:
    if row["clip_id"] not in places:
        raise ValueError(
            f"{row['clip_id']} is encoded but not curated: pack shards of the same clips (gamegen pack --curated)"
        )
    file, group, number = places[row["clip_id"]]
    (curated,) = read_rows_of(file, group, [number])
    operations = np.frombuffer(row["operations"], np.float16).reshape(row["num_chunks"], FRAMES_PER_CHUNK, -1)
    return compensated_columns(model, read_mp4(curated["video"]), operations.copy())


def verify_pack(data: Path) -> None:
    """Checks the files of a pack against its manifest; raises ValueError naming one that is missing or damaged."""
    for name, expected in read_json(data / MANIFEST_FILE)["sha256"].items():
        if not (data / name).is_file():
            raise ValueError(f"{data / name} is missing: copy the whole pack again")
        if (found := file_sha256(data / name)) != expected:
            raise ValueError(
                f"{data / name} is damaged: its SHA-256 is {found[:16]}..., the manifest says {expected[:16]}...; "
                "copy it again"
            )


@contextmanager
def time_limit(minutes: float | None) -> Iterator[None]:
    """Terminates this process's training after so many minutes as a scheduler would: it saves and stops.

    Between trainings a termination raises KeyboardInterrupt.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    timer = threading.Timer(60 * (minutes or 0), os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    if minutes is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    """Exit code 0 when all stages are done, 75 when the same command has to run again, 2 for an error."""
    parser = argparse.ArgumentParser(prog="python -m gamegen.training.burst", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the pack (gamegen pack)")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint folder; what is there goes on")
    parser.add_argument("--minutes", type=float, help="stop and save after this long")
    given = parser.parse_args()
    try:
        with time_limit(given.minutes):
            verify_pack(given.data)
            Burst(given.data, given.output).run()
    except KeyboardInterrupt:
        print("gamegen: stopped and saved; run the same command again to go on", file=sys.stderr)
        raise SystemExit(NOT_YET) from None
    print(f"all stages are done: gamegen play --model {given.output}")


if __name__ == "__main__":
    run_program(main)

"""Runs a training stage: builds its model, objective and feed, trains, and finishes its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from gamegen.device import keep_freed_memory
from gamegen.training import parallel
from gamegen.training.feed import Feed, WindowDataset, WindowSource
from gamegen.training.loop import STATES_FOLDER, Run, Trainer
from gamegen.training.run_states import complete_steps
from gamegen.training.stages.stage import Stage
from gamegen.training.validation import held_out
from gamegen.training.window_plan import WindowPlan, index_clips

SourceOf = Callable[[WindowDataset], WindowSource]


def run_stage(
    stage: Stage,
    data: Path,
    run: Run,
    init: Path | str | None = None,
    source: SourceOf | None = None,
) -> Path:
    """Trains one stage and returns its checkpoint folder.

    `data` is a folder of shards, curated or encoded as the stage says; `source` replaces reading its windows in this
    process. Raises ValueError or FileNotFoundError where `init` or `data` is not what the stage needs.
    """
    keep_freed_memory()
    torch.manual_seed(stage.seed)
    model = stage.build_model(init, data, run.output)
    windows = stage.windows(model.config)
    worker, num_workers = parallel.data_worker(stage.parallel)
    feed = Feed(
        plan=WindowPlan(stage, index_clips(data, "train", windows.length_column)),
        dataset=windows,
        source=source(windows) if source else None,
        worker=worker,
        num_workers=num_workers,
    )
    objective = stage.objective(model)
    if not complete_steps(run.output / STATES_FOLDER):
        stage.initialise(objective, feed.example, is_new=init is None)
    trainer = Trainer(
        objective=objective, config=stage, run=run, feed=feed, held_out=held_out(stage, data, windows)
    )
    output = trainer.train()
    if parallel.rank() == 0:
        stage.finish(output, data)
    return output

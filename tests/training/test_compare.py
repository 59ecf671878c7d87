"""Checkpoints of different runs are measured on the same windows, as a run's own validation measures its weights."""

from __future__ import annotations

import dataclasses
import json

import pytest

from gamegen.training.compare import compare
from gamegen.training.loop import Run, Trainer
from gamegen.training.validation import held_out
from tests.training.samples import encoded_folder, latent_feed, plain_flow, stage, trainer


def test_a_checkpoint_has_the_figures_of_its_validation_whatever_it_was_trained_with(tmp_path):
    data = encoded_folder(tmp_path / "data")
    config = stage(
        "instructnet", flow=plain_flow(train_foundation=True), validation_batches=2, steps=2, save_every=2
    )
    for name, run_config in (
        ("plain", config),
        ("weighted", dataclasses.replace(config, flow=plain_flow(train_foundation=True, level_power=0.0))),
    ):
        run = trainer(run_config, tmp_path / name, data)
        windows = run_config.windows(run.objective.model.config)
        held = held_out(run_config, data, windows)
        watched = Trainer(
            run.objective,
            run_config,
            Run(output=tmp_path / name, show_progress=False),
            latent_feed(run_config, data),
            held,
        )
        watched.train()
    found = compare(config, data, [str(tmp_path / name) for name in ("plain", "weighted")])
    plain, weighted = found.values()
    own = json.loads((tmp_path / "plain" / "validation.jsonl").read_text().splitlines()[-1])
    assert plain["loss"] == own["loss"] and plain["velocity_error"] == own["velocity_error"]
    assert plain["loss"] != weighted["loss"]
    # The loss of that run is not the one that is compared.
    other = json.loads((tmp_path / "weighted" / "validation.jsonl").read_text().splitlines()[-1])
    assert weighted["loss"] != other["loss"]
    assert weighted["velocity_error"] == pytest.approx(other["velocity_error"])


def test_a_stage_without_validation_compares_nothing(tmp_path):
    data = encoded_folder(tmp_path / "data")
    config = stage("instructnet", validation_batches=0)
    trainer(config, tmp_path / "run", data).train()
    with pytest.raises(ValueError, match="validation_batches = 0"):
        compare(config, data, [str(tmp_path / "run")])

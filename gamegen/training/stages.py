"""Puts a stage together: model, objective, data, trainer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gamegen.config import load_yaml
from gamegen.curation.encoded import EncodedClip
from gamegen.device import default_device, keep_freed_memory
from gamegen.models.checkpoint import Model, ModelConfig
from gamegen.training.config import StageConfig
from gamegen.training.data import ClipBuffer, Row, pixel_batch, prepare_pixels, read_rows, training_batch
from gamegen.training.inverse_dynamics import run_inverse_dynamics
from gamegen.training.loop import Run, Trainer, start_model
from gamegen.training.objectives import VAEObjective, build_objective

STATISTICS_FILE = "statistics.json"
CONFIGS = Path(__file__).parents[2] / "configs" / "stages"


def stage_file(name: str) -> Path:
    """The YAML file of a named stage, or the path itself; raises ValueError for neither."""
    file = Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
        raise ValueError(f"no stage {name!r}: use one of {known}, or a YAML file")
    return file


def load_stage(path: Path) -> StageConfig:
    """A stage's config; raises ValueError naming the wrong key."""
    return load_yaml(StageConfig, path)


def run_stage(
    config: StageConfig,
    data: Path,
    run: Run,
    init: Path | str | None = None,
    rows: Iterator[Row] | None = None,
    rank: int = 0,
) -> Path:
    """Trains one stage and returns its checkpoint folder.

    `data` is a folder of shards, curated (vae, decoder, idm) or encoded (other stages); `rows` replaces reading its
    train split.
    """
    keep_freed_memory()
    torch.manual_seed(config.seed)
    rows = rows if rows is not None else read_rows(data, "train")
    if config.stage == "idm":
        return run_inverse_dynamics(config, data, run, init, rows, rank)
    model_config, weights = start_model(config, init)
    if config.stage == "foundation":
        model_config = _with_statistics(model_config, data)
    if config.stage == "turbo":
        turbo = config.turbo
        sampling = replace(
            model_config.sampling,
            solver="consistency",
            num_steps=turbo.num_steps,
            first_steps=turbo.first_steps,
            shift=turbo.shift,
            guidance_scale=1.0,
        )
        model_config = replace(model_config, sampling=sampling)
    model = Model(model_config)
    # Parts this stage creates have no weights yet.
    model.load_state_dict(weights, strict=False)
    model.to(default_device())
    objective = build_objective(model, config)
    on_pixels = config.stage in ("vae", "decoder")
    batch_at = _pixels(config, rows, rank) if on_pixels else _latents(config, rows, model, rank)
    if isinstance(objective, VAEObjective) and not weights:
        objective.vae.initialise_from_patches(torch.cat([batch_at(i) for i in range(8)]))
    trainer = Trainer(objective, config, run, batch_at)
    return trainer.train()


def _pixels(config: StageConfig, rows: Iterator[Row], rank: int) -> Any:
    buffer = ClipBuffer(rows, prepare_pixels, config.buffer_clips, config.seed)
    crop = config.vae_loss.crop if config.stage == "vae" else config.decoder_loss.crop
    return lambda step: pixel_batch(buffer, step, config.batch_size, config.window, crop, rank)


def _latents(config: StageConfig, rows: Iterator[Row], model: Model, rank: int) -> Any:
    buffer = ClipBuffer(rows, EncodedClip.from_row, config.buffer_clips, config.seed)
    cpu = Model(
        ModelConfig(
            model.config.vae, latent_mean=model.config.latent_mean, latent_std=model.config.latent_std
        )
    )
    return lambda step: training_batch(buffer, step, config, cpu.normalise, rank)


def _with_statistics(config: ModelConfig, data: Path) -> ModelConfig:
    file = data / STATISTICS_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: run the encode job first")
    statistics = json.loads(file.read_text())
    return replace(config, latent_mean=tuple(statistics["mean"]), latent_std=tuple(statistics["std"]))

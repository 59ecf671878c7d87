"""Puts a stage together: model, objective, data, trainer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from gamegen.config import load_yaml
from gamegen.device import default_device, keep_freed_memory
from gamegen.models.checkpoint import Model, ModelConfig, load_checkpoint
from gamegen.models.configs import named_config
from gamegen.models.inverse_dynamics import InverseDynamics, load_inverse_dynamics
from gamegen.models.sampling import SamplingConfig
from gamegen.training import parallel
from gamegen.training.autoencoder import VAEObjective
from gamegen.training.config import StageConfig
from gamegen.training.data import Feed, WindowKind, WindowSource
from gamegen.training.inverse_dynamics import InverseDynamicsObjective, set_thresholds
from gamegen.training.latents import LatentWindows
from gamegen.training.loop import Run, Trainer
from gamegen.training.objectives import build_objective
from gamegen.training.pixels import PixelWindows
from gamegen.training.plan import Plan, index_clips
from gamegen.training.recorded import RecordedWindows
from gamegen.training.validation import held_out

STATISTICS_FILE = "statistics.json"
INITIAL_FILE = "initial.safetensors"
SourceOf = Callable[[WindowKind], WindowSource]
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
    source: SourceOf | None = None,
) -> Path:
    """Trains one stage and returns its checkpoint folder.

    `data` is a folder of shards, curated (vae, decoder, idm) or encoded (other stages); `source` replaces reading its
    windows in this process.
    """
    keep_freed_memory()
    torch.manual_seed(config.seed)
    if config.stage == "idm":
        return _run_inverse_dynamics(config, data, run, init, source)
    model_config, weights = start_model(config, init)
    if config.stage == "foundation":
        model_config = _with_statistics(model_config, data)
    if config.stage == "turbo":
        model_config = _few_steps(model_config, config)
    kind = window_kind(config, model_config)
    feed = _feed(config, data, kind, source)
    objective = build_objective(first_model(model_config, weights, config, run.output), config)
    if isinstance(objective, VAEObjective) and not weights:
        objective.vae.initialise_from_patches(feed.example(8))
    return Trainer(objective, config, run, feed, held_out(config, data, kind)).train()


def _run_inverse_dynamics(
    config: StageConfig, data: Path, run: Run, init: Path | str | None, source: SourceOf | None
) -> Path:
    """Trains inverse dynamics, from `init` or from nothing, and chooses its thresholds on the validation split."""
    model = load_inverse_dynamics(init) if init else InverseDynamics(config.idm_model).to(default_device())
    kind = RecordedWindows(model.config, config.idm_loss)
    feed = _feed(config, data, kind, source)
    objective = InverseDynamicsObjective(model.train(), config.idm_loss)
    folder = Trainer(objective, config, run, feed, held_out(config, data, kind)).train()
    if parallel.rank() == 0 and (data / "split=validation").is_dir():
        set_thresholds(folder, data)
    return folder


def _feed(config: StageConfig, data: Path, kind: WindowKind, source: SourceOf | None) -> Feed:
    plan = Plan(config, index_clips(data, "train", kind.length_column))
    return Feed(plan, kind, source and source(kind), *parallel.data_worker(config.parallel))


def start_model(config: StageConfig, init: Path | str | None) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The config and weights a stage starts from: those of `init` with the parts the stage creates added."""
    sizes = named_config(config.model)
    if init is None:
        if config.stage != "vae":
            raise ValueError(f"the {config.stage} stage builds on another: pass its checkpoint with --init")
        # How a finished model is sampled is for the turbo stage to say.
        return replace(sizes, foundation=None, instructnet=None, sampling=SamplingConfig()), {}
    checkpoint = load_checkpoint(init, "cpu")
    model_config = checkpoint.config
    if config.stage in ("foundation", "instructnet") and model_config.foundation is None:
        model_config = replace(model_config, foundation=sizes.foundation)
    if config.stage == "instructnet" and model_config.instructnet is None:
        model_config = replace(model_config, instructnet=sizes.instructnet)
    if config.stage == "sparse":
        model_config = _with_sparse_attention(model_config, config)
    return model_config, checkpoint.model.state_dict()


def first_model(
    model_config: ModelConfig, weights: dict[str, Tensor], config: StageConfig, output: Path
) -> Model:
    """The model a stage begins with, on this process's device; parts that the stage creates have random weights.

    Where states are sharded, the first process writes those weights once and all map the file: none of them holds
    the whole model in memory while it is cut up.
    """
    file = output / INITIAL_FILE
    if not parallel.is_sharded(config.parallel) or parallel.rank() == 0:
        model = Model(model_config)
        model.load_state_dict(weights, strict=False)
        if not parallel.is_sharded(config.parallel):
            return model.to(default_device())
        output.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
        del model
    dist.barrier()
    with torch.device("meta"):
        model = Model(model_config)
    model.load_state_dict(load_file(file), assign=True)
    model.set_statistics()
    return model


def window_kind(config: StageConfig, model: ModelConfig) -> WindowKind:
    """What a stage's windows are made of."""
    if config.stage == "vae":
        return PixelWindows(config.vae_loss.crop)
    if config.stage == "decoder":
        return PixelWindows(config.decoder_loss.crop)
    return LatentWindows(config.flow, model)


def _with_sparse_attention(model: ModelConfig, config: StageConfig) -> ModelConfig:
    if model.foundation is None:
        raise ValueError("the sparse stage changes a foundation's attention: --init has no foundation")
    return replace(model, foundation=replace(model.foundation, sparse_attention=config.sparse.attention))


def _few_steps(model: ModelConfig, config: StageConfig) -> ModelConfig:
    turbo = config.turbo
    sampling = replace(
        model.sampling,
        solver="consistency",
        num_steps=turbo.num_steps,
        first_steps=turbo.first_steps,
        shift=turbo.shift,
        guidance_scale=1.0,
    )
    return replace(model, sampling=sampling)


def _with_statistics(config: ModelConfig, data: Path) -> ModelConfig:
    file = data / STATISTICS_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: run the encode job first")
    statistics = json.loads(file.read_text())
    return replace(config, latent_mean=tuple(statistics["mean"]), latent_std=tuple(statistics["std"]))

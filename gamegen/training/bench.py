"""How fast this machine trains a model of a given size: real steps on synthetic windows, no data needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.table import Table

from gamegen.controls import FRAMES_PER_CHUNK, OPERATION_SIZE
from gamegen.device import default_device, keep_freed_memory
from gamegen.models.checkpoint import Model, ModelConfig
from gamegen.models.configs import named_config
from gamegen.models.counts import Latents, parameter_counts
from gamegen.models.instructnet import Controls
from gamegen.models.msdit import Text
from gamegen.models.text import MAX_TOKENS
from gamegen.training.config import FlowLossConfig, StageConfig, TrainingBucket
from gamegen.training.data import StepBatches
from gamegen.training.latents import LatentBatch
from gamegen.training.loop import Run, Trainer
from gamegen.training.objectives import build_objective

WARMUP_STEPS = 2


@dataclass(frozen=True)
class BenchConfig:
    """`num_frames` video frames a window of `size` (width, height; the model's own if None), `batch` of them a step."""

    model: str = "nano"
    num_frames: int = 32
    size: tuple[int, int] | None = None
    batch: int = 2
    steps: int = 10


@dataclass(frozen=True)
class BenchResult:
    """What was measured over all steps but the first `WARMUP_STEPS`; `memory_bytes` is a GPU's peak, else None."""

    device: str
    peak: str
    latents: Latents
    weights: int
    tflop_per_step: float
    rates: dict[str, float]
    memory_bytes: int | None


def bench_training(config: BenchConfig) -> BenchResult:
    """Trains MSDiT and InstructNet together on one synthetic batch. Raises ValueError for sizes that do not fit."""
    keep_freed_memory()
    model_config = named_config(config.model)
    if config.size:
        model_config = replace(model_config, width=config.size[0], height=config.size[1])
    if config.num_frames < 1 or model_config.width % 16 or model_config.height % 16:
        raise ValueError(
            f"{config.num_frames} frames of {model_config.width}x{model_config.height}: frames must be at least 1, "
            "width and height multiples of 16"
        )
    device = default_device()
    latents = Latents.of_clip(model_config, config.num_frames)
    trainer = _trainer(config, model_config, latents, device)
    throughput = trainer.observer.throughput
    stream = trainer.feed.batches(0, {})
    for step in range(WARMUP_STEPS + config.steps):
        if step == WARMUP_STEPS:
            throughput.summary()
        trainer.train_step(throughput.fetch(stream))
        throughput.finish_step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    rates = throughput.summary()
    peak = trainer.observer.peak
    counts = parameter_counts(model_config)
    is_cuda = device.type == "cuda"
    return BenchResult(
        torch.cuda.get_device_name(device)
        if is_cuda
        else f"{device.type}, threads: {torch.get_num_threads()}",
        f"{peak.flops_per_s / 1e12:.3g} TFLOP/s, {peak.source}",
        latents,
        counts["foundation"] + counts["instructnet"],
        rates["mfu"] * peak.flops_per_s * config.batch / rates["samples_per_s"] / 1e12,
        rates,
        torch.cuda.max_memory_allocated(device) if is_cuda else None,
    )


def bench_table(config: BenchConfig, result: BenchResult) -> Table:
    """The result for people."""
    table = Table(
        "", "", title=f"Training {config.model}, {config.batch} windows a step, {config.steps} steps"
    )
    latents = result.latents
    facts = {
        "device": result.device,
        "peak": result.peak,
        "weights": f"{result.weights / 1e6:,.1f} M",
        "window": f"{latents.frames} latents of {latents.columns}x{latents.rows}, {latents.tokens:,} tokens",
        "work": f"{result.tflop_per_step:,.3f} TFLOP a step",
        "step": f"{result.rates['step_s']:.3f} s",
        "samples/s": f"{result.rates['samples_per_s']:.2f}",
        "tokens/s": f"{result.rates['tokens_per_s']:,.0f}",
        "model FLOP utilisation": f"{result.rates['mfu']:.1%}",
    }
    if result.memory_bytes is not None:
        facts["peak memory"] = f"{result.memory_bytes / 2**30:.1f} GiB"
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _trainer(config: BenchConfig, model: ModelConfig, latents: Latents, device: torch.device) -> Trainer:
    torch.manual_seed(0)
    # Plain windows only, so that every step does the same work.
    flow = FlowLossConfig(train_foundation=True, own_predictions=0.0)
    bucket = TrainingBucket(f"{model.width}x{model.height}", config.num_frames)
    stage = StageConfig("instructnet", config.model, batch_size=config.batch, buckets=(bucket,), flow=flow)
    batch = synthetic_batch(model, latents, config.batch)
    objective = build_objective(Model(model).to(device), stage)
    return Trainer(objective, stage, Run(Path("bench"), show_progress=False), SameBatch(bucket.name, batch))


@dataclass(frozen=True)
class SameBatch:
    """A feed that gives every step the same batch."""

    bucket: str
    batch: LatentBatch

    def start(self) -> dict[str, int]:
        """There is no place in the data."""
        return {}

    def advance(self, positions: dict[str, int], bucket: str) -> dict[str, int]:
        """It is always the same."""
        return positions

    def batches(self, step: int, positions: dict[str, int]) -> Iterator[StepBatches]:
        """The batch, for ever."""
        for number in itertools.count(step):
            yield StepBatches(number, self.bucket, [(0, self.batch)])


def synthetic_batch(model: ModelConfig, latents: Latents, batch: int) -> LatentBatch:
    """Windows of noise with full-length texts and random keys."""
    assert model.foundation is not None
    generator = torch.Generator().manual_seed(0)
    shape = (batch, latents.frames, model.vae.latent_channels, latents.rows, latents.columns)
    x = torch.randn(shape, generator=generator)
    tokens = torch.randn(batch, MAX_TOKENS, model.foundation.text_width, generator=generator)
    text = Text(tokens, torch.ones(batch, MAX_TOKENS, dtype=torch.bool), tokens.mean(1))
    operations = torch.rand(batch, latents.frames, FRAMES_PER_CHUNK, OPERATION_SIZE, generator=generator)
    controls = Controls(
        operations.round(),
        torch.ones(batch, latents.frames, dtype=torch.bool),
        text,
        torch.ones(batch, latents.frames),
    )
    starts = torch.zeros(batch, dtype=torch.bool)
    return LatentBatch(x, x.roll(1, 1), starts, text, text, controls)

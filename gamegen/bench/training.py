"""Training benchmark: real steps on synthetic windows, for a model of a given size and without data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.table import Table

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.controls import OPERATION_SIZE
from gamegen.device import default_device, keep_freed_memory
from gamegen.models.configs import named_config
from gamegen.models.counts import Latents, parameter_counts
from gamegen.models.instructnet import ControlInputs
from gamegen.models.model import Model, ModelConfig
from gamegen.models.network_inputs import Text
from gamegen.models.text import MAX_TOKENS
from gamegen.training.feed import StepBatches
from gamegen.training.latent_windows import LatentBatch
from gamegen.training.loop import Run, Trainer
from gamegen.training.objectives.flow_matching import FlowLossConfig
from gamegen.training.stage_config import TrainingBucket
from gamegen.training.stages.instructnet import InstructNetStage

WARMUP_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Settings of the benchmark.

    A step takes `batch` windows of `num_frames` video frames of `size` (width, height; the model's own if None).
    """

    model: str = "nano"
    num_frames: int = 32
    size: tuple[int, int] | None = None
    batch: int = 2
    steps: int = 10


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """Rates over all steps but the first `WARMUP_STEPS`; `memory_bytes` is a GPU's peak, else None."""

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
    name = (
        torch.cuda.get_device_name(device)
        if is_cuda
        else f"{device.type}, threads: {torch.get_num_threads()}"
    )
    return BenchResult(
        device=name,
        peak=f"{peak.flops_per_s / 1e12:.3g} TFLOP/s, {peak.source}",
        latents=latents,
        weights=counts["foundation"] + counts["instructnet"],
        tflop_per_step=rates["mfu"] * peak.flops_per_s * config.batch / rates["samples_per_s"] / 1e12,
        rates=rates,
        memory_bytes=torch.cuda.max_memory_allocated(device) if is_cuda else None,
    )


def bench_table(config: BenchConfig, result: BenchResult) -> Table:
    """Table of the result, for a terminal."""
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
    flow = FlowLossConfig(train_foundation=True, scheduled_sampling=0.0)
    bucket = TrainingBucket(f"{model.width}x{model.height}", config.num_frames)
    stage = InstructNetStage(model=config.model, batch_size=config.batch, buckets=(bucket,), flow=flow)
    batch = synthetic_batch(model, latents, config.batch)
    objective = stage.objective(Model(model).to(device))
    return Trainer(
        objective, stage, Run(output=Path("bench"), show_progress=False), SameBatch(bucket.name, batch)
    )


@dataclass(frozen=True)
class SameBatch:
    """A feed that gives every step one fixed batch."""

    bucket: str
    batch: LatentBatch

    def start(self) -> dict[str, int]:
        """Empty: the feed has no position."""
        return {}

    def advance(self, positions: dict[str, int], bucket: str) -> dict[str, int]:
        """The unchanged positions."""
        return positions

    def batches(self, step: int, positions: dict[str, int]) -> Iterator[StepBatches]:
        """Endless steps of the one batch."""
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
    controls = ControlInputs(
        operations=operations.round(),
        has_operations=torch.ones(batch, latents.frames, dtype=torch.bool),
        instruction=text,
        instruction_active=torch.ones(batch, latents.frames),
    )
    return LatentBatch(
        latents=x,
        previous=x.roll(1, 1),
        starts=torch.zeros(batch, dtype=torch.bool),
        prompt=text,
        first_prompt=text,
        controls=controls,
    )

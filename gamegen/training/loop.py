"""The training loop that every stage shares, with and without Ray.

It knows nothing of Ray: `jobs/train.py` passes rows of a Ray Data shard and a callback that reports. With an
initialised `torch.distributed` group, gradients are averaged over ranks and rank 0 writes.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from gamegen.config import to_dict
from gamegen.device import autocast
from gamegen.models.checkpoint import ModelConfig, SamplingConfig, load_checkpoint, save_checkpoint
from gamegen.models.configs import named_config
from gamegen.training.config import OptimiserConfig, StageConfig
from gamegen.training.muon import Muon
from gamegen.training.objectives import Objective
from gamegen.training.observe import Observer, Place
from gamegen.training.validation import HeldOut, named_weights

STATE_FILE = "training.pt"


@dataclass(frozen=True)
class Run:
    """Where a stage writes and how long it may take (`minutes` None: all its steps).

    `command` is the command line that began it (this process's own if empty); `on_log` gets each row of the log.
    """

    output: Path
    minutes: float | None = None
    data: str = ""
    init: str = ""
    report: Callable[[dict[str, float], Path | None], None] | None = None
    show_progress: bool = True
    command: str = ""
    on_log: Callable[[dict[str, float]], None] | None = None


class Trainer:
    """Optimises an objective from batches that are a function of the step; saves, resumes, shows."""

    def __init__(
        self,
        objective: Objective,
        config: StageConfig,
        run: Run,
        batch_at: Callable[[int], Any],
        held_out: HeldOut | None = None,
    ) -> None:
        self.objective, self.config, self.run, self.batch_at = objective, config, run, batch_at
        self.modules = objective.trained_modules()
        self.device = objective.model.device
        self.parameters = [p for module in self.modules.values() for p in module.parameters()]
        self.optimisers = build_optimisers(self.modules, config.optimiser)
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.ema = {name: tensor.detach().clone() for name, tensor in self._weights().items()}
        self.step, self.elapsed_s = 0, 0.0
        self.history: list[dict[str, float]] = []
        world_size = dist.get_world_size() if dist.is_initialized() else 1
        place = Place(run.output, run.command, run.data, run.init, run.on_log)
        self.observer = Observer(objective, config, place, held_out, world_size, writes=self.rank == 0)

    def _weights(self) -> dict[str, Tensor]:
        return named_weights(self.modules)

    def train(self) -> Path:
        """Runs to the last step or the time limit, resuming from the output folder; returns the checkpoint folder."""
        self.resume()
        with self._progress() as bar:
            task = bar.add_task(self.config.stage, total=1.0)
            try:
                for metrics in self._steps():
                    bar.update(task, completed=self.progress, description=self._describe(metrics))
            except KeyboardInterrupt:
                # Stopped by hand: nothing done so far is lost, the same command goes on from here.
                self.save()
                raise
            finally:
                self.observer.close()
        return self.run.output

    def _steps(self) -> Iterator[dict[str, float]]:
        """Steps to the end of the stage, logged and saved on the way; yields each step's metrics."""
        began = time.monotonic() - self.elapsed_s
        totals: dict[str, float] = {}
        while self.progress < 1:
            metrics = self.train_step()
            self.elapsed_s = time.monotonic() - began
            totals = {name: totals.get(name, 0.0) + value for name, value in metrics.items()}
            if self.step % self.config.log_every == 0:
                self._log({name: value / self.config.log_every for name, value in totals.items()})
                totals = {}
            if self.step % self.config.save_every == 0:
                self.save()
            yield metrics
        if self.step % self.config.save_every:
            self.save()

    @property
    def progress(self) -> float:
        """0 at the start, 1 when the steps or the minutes are used up."""
        by_time = self.elapsed_s / (60 * self.run.minutes) if self.run.minutes else 0.0
        return min(1.0, max(self.step / self.config.steps, by_time))

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns its metrics."""
        progress = self.progress
        rate = learning_rate(self.config.optimiser, self.step, progress)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad(set_to_none=True)
        generator = torch.Generator().manual_seed(hash((self.config.seed, self.rank, self.step)) % 2**63)
        with autocast(self.device):
            batch = self.observer.throughput.fetch(self.batch_at, self.step)
            loss, metrics = self.objective.loss(batch, generator, progress)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"the loss became {loss.item()} at step {self.step}: lower the learning rate and resume"
            )
        loss.backward()
        average_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.optimiser.clip_norm)
        for optimiser in self.optimisers:
            optimiser.step()
        self.objective.after_step()
        self.step += 1
        self._update_ema()
        self.observer.throughput.finish_step()
        return {"loss": loss.item(), **metrics, "gradient_norm": float(norm)}

    @torch.no_grad()
    def _update_ema(self) -> None:
        # A young average forgets faster, or it would still remember the random start.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        weights = self._weights()
        slow = [self.ema[name] for name in weights]
        torch._foreach_lerp_(slow, [w.detach() for w in weights.values()], 1 - decay)

    def _log(self, metrics: dict[str, float]) -> None:
        rates = self.observer.throughput.summary()
        row = {"step": self.step, "elapsed_s": round(self.elapsed_s, 1), **metrics, **rates}
        self.history.append(row)
        if self.rank == 0:
            self.run.output.mkdir(parents=True, exist_ok=True)
            with (self.run.output / "log.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
        self.observer.log(self.history)

    def save(self) -> None:
        """Writes the checkpoint (averaged weights), the state to resume from, and has the averages validated."""
        if self.rank == 0:
            self._save_checkpoint()
            state = {
                "step": self.step,
                "elapsed_s": self.elapsed_s,
                "history": self.history,
                "weights": {name: weight.detach() for name, weight in self._weights().items()},
                "ema": self.ema,
                "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
                "objective": self.objective.state(),
            }
            partial = self.run.output / f"{STATE_FILE}.partial"
            torch.save(state, partial)
            partial.replace(self.run.output / STATE_FILE)
        self.observer.save(self.step, self.ema, last=self.progress >= 1)
        if self.run.report:
            latest: dict[str, float] = self.history[-1] if self.history else {"step": self.step}
            self.run.report(latest, self.run.output if self.rank == 0 else None)

    def _save_checkpoint(self) -> None:
        model = self.objective.model
        # What a stage trains beside the model (a discriminator) is only in the state to resume from.
        weights = {name: self.ema.get(name, tensor) for name, tensor in model.state_dict().items()}
        card = {
            "stage": self.config.stage,
            "steps": self.step,
            "wall_time_s": round(self.elapsed_s, 1),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, {self.device.type}",
            "data": self.run.data,
            "initialised_from": self.run.init,
            "metrics": self.history[-1] if self.history else {},
            "training": to_dict(self.config),
        }
        save_checkpoint(self.run.output, model.config, weights, card)

    def resume(self) -> None:
        """Continues a stopped run of the same output folder, if there is one."""
        file = self.run.output / STATE_FILE
        if not file.is_file():
            return
        state = torch.load(file, map_location=self.device, weights_only=False)
        self.step, self.elapsed_s, self.history = state["step"], state["elapsed_s"], state["history"]
        with torch.no_grad():
            for name, weight in self._weights().items():
                weight.copy_(state["weights"][name])
                self.ema[name].copy_(state["ema"][name])
        for optimiser, optimiser_state in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(optimiser_state)
        self.objective.restore(state["objective"])

    def _describe(self, metrics: dict[str, float]) -> str:
        rates = self.observer.describe()
        return f"{self.config.stage} {self.step}: loss {metrics['loss']:.4f}" + (rates and f", {rates}")

    def _progress(self) -> Progress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=8),
            TextColumn("{task.percentage:.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        return Progress(*columns, disable=not self.run.show_progress or self.rank > 0)


def build_optimisers(modules: dict[str, nn.Module], config: OptimiserConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside transformer blocks, AdamW for everything else.

    AdamW decays no vectors (norms, biases, tables).
    """
    hidden = [p for module in modules.values() for p in hidden_matrices(module)]
    taken = {id(p) for p in hidden}
    rest = [p for module in modules.values() for p in module.parameters() if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, foreach=True)
    if not hidden:
        return [adamw]
    return [Muon(hidden, config.learning_rate, weight_decay=config.weight_decay), adamw]


def hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """Weights of the linear layers inside a transformer's `blocks`; none for a network without."""
    blocks = dict(module.named_children()).get("blocks", nn.Module())
    return [p for name, p in blocks.named_parameters() if p.ndim == 2 and name.endswith(".weight")]


def learning_rate(config: OptimiserConfig, step: int, progress: float) -> float:
    """The rate at a step; `progress` runs from 0 to 1."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    into_decay = max(0.0, progress - (1 - config.decay_fraction)) / max(config.decay_fraction, 1e-9)
    cosine = 0.5 * (1 + math.cos(math.pi * into_decay))
    return config.learning_rate * warm * (config.final_rate + (1 - config.final_rate) * cosine)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Averages gradients over the process group, if there is one."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    start = 0
    for p in parameters:
        p.grad = flat[start : start + p.numel()].view_as(p).clone()
        start += p.numel()


def start_model(config: StageConfig, init: Path | str | None) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The config and weights a stage starts from: those of `init` with the parts the stage creates added."""
    from dataclasses import replace

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
    return model_config, checkpoint.model.state_dict()

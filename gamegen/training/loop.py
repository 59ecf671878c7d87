"""The training loop of all stages: steps, averages, states, resuming and stopping.

It does not import Ray: `jobs/train.py` passes a source of windows and a callback that reports. With an
initialised `torch.distributed` group, the processes share each step's micro-batches and rank 0 writes.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from gamegen.config import to_dict
from gamegen.device import autocast, default_device, keep_helpers_to_one_thread
from gamegen.models.checkpoint import save_checkpoint
from gamegen.storage.interface import ObjectStore
from gamegen.storage.local import LocalStore
from gamegen.training import parallel
from gamegen.training.feed import BatchFeed, StepBatches, ahead
from gamegen.training.objectives.objective import Objective
from gamegen.training.observe import Observer, RunContext
from gamegen.training.optimisers import build_optimisers, learning_rate, trained_parameters
from gamegen.training.run_states import RunStates, upload_checkpoint
from gamegen.training.stages.stage import Stage
from gamegen.training.validation import HeldOut, named_weights

STATES_FOLDER = "states"
ARCHIVE_FOLDER = "archive"
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Output folder and limits of one run of a stage (`minutes` None: all its steps).

    `archive` takes the averaged weights of states that are no longer kept; None is a folder of `output`. `command`
    is the command line that began it (this process's own if empty); every process's `on_log` gets each row of the log.
    Without `is_observed` there are no validations, events and page.
    """

    output: Path
    minutes: float | None = None
    data: str = ""
    init: str = ""
    show_progress: bool = True
    archive: ObjectStore | None = None
    command: str = ""
    on_log: Callable[[dict[str, float]], None] | None = None
    is_observed: bool = True


class Trainer:
    """Optimises an objective over the steps of a feed, with averaged weights, saved states and an observer."""

    def __init__(
        self,
        objective: Objective,
        config: Stage,
        run: Run,
        feed: BatchFeed,
        held_out: HeldOut | None = None,
    ) -> None:
        self.objective = objective
        self.config = config
        self.run = run
        self.feed = feed
        self.device = default_device()
        parallel.prepare(objective.sharded_modules(), config.parallel, self.device)
        for module in (objective.model, *objective.sharded_modules()):
            module.to(self.device)
        group = parallel.sequence_group(config.parallel)
        objective.shared_time = parallel.SharedTime(group) if group else None
        self.modules = objective.trained_modules()
        # One module for PyTorch's optimiser states, which go by parameter names. Its own names must hold no dots and
        # be none of its methods'.
        self._container = nn.ModuleDict(
            {"/" + name.replace(".", "/"): module for name, module in self.modules.items()}
        )
        self.parameters = trained_parameters(self.modules)
        self.optimisers = build_optimisers(self.modules, config.optimiser)
        self.rank = parallel.rank()
        self.averages = {name: tensor.detach().clone() for name, tensor in self._weights().items()}
        self.states = RunStates(run.output / STATES_FOLDER, config.keep_states)
        self.step = 0
        self.elapsed_s = 0.0
        self.positions = feed.start()
        self.history: list[dict[str, float]] = []
        self.observer = Observer(
            objective=objective,
            config=config,
            context=RunContext(output=run.output, command=run.command, data=run.data, init=run.init),
            held_out=held_out,
            world_size=parallel.num_workers() // config.parallel.sequence,
            writes=self.rank == 0 and run.is_observed,
        )
        self._archive = run.archive or LocalStore(run.output / ARCHIVE_FOLDER)
        self._archivist = ThreadPoolExecutor(1, "archive")
        self._archiving: Future[None] | None = None

    def _weights(self) -> dict[str, Tensor]:
        return named_weights(self.modules)

    def train(self) -> Path:
        """Runs to the last step or the time limit, resuming from the output folder; returns the checkpoint folder.

        Raises KeyboardInterrupt, with the signal's number, once a run stopped by hand is saved: the same command goes
        on from there.
        """
        self.resume()
        with stop_signals() as received, self._progress() as bar:
            task = bar.add_task(self.config.stage, total=1.0)
            try:
                for metrics in self.steps():
                    bar.update(task, completed=self.progress, description=self._describe(metrics))
                    if received:
                        self.save()
                        raise KeyboardInterrupt(received[0])
            finally:
                self.finish_writing()
                self.observer.close()
        return self.run.output

    def steps(self) -> Iterator[dict[str, float]]:
        """Runs the steps to the end of the stage, logging and saving on the way; yields each step's metrics."""
        if self.progress >= 1:
            return
        began = time.monotonic() - self.elapsed_s
        seen: dict[str, list[float]] = {}
        keep_helpers_to_one_thread()
        with closing(ahead(self.feed.batches(self.step, self.positions))) as stream:
            while True:
                metrics = self.train_step(self.observer.throughput.fetch(stream))
                self.observer.throughput.finish_step()
                self.elapsed_s = time.monotonic() - began
                # Buckets may differ in their metrics: each is averaged over the steps that have it.
                for name, value in metrics.items():
                    seen.setdefault(name, []).append(value)
                if self.step % self.config.log_every == 0:
                    self._log({name: sum(values) / len(values) for name, values in seen.items()})
                    seen = {}
                is_last = self._agreed_progress() >= 1
                if self.step % self.config.save_every == 0 or is_last:
                    self.save()
                yield metrics
                if is_last:
                    return

    @property
    def progress(self) -> float:
        """0 at the start, 1 when the steps or the minutes are used up."""
        by_time = self.elapsed_s / (60 * self.run.minutes) if self.run.minutes else 0.0
        return min(1.0, max(self.step / self.config.steps, by_time))

    def _agreed_progress(self) -> float:
        """Progress by the clock of rank 0 where there is a time limit, so that all processes stop at one step."""
        if self.run.minutes:
            self.elapsed_s = parallel.from_first(self.elapsed_s)
        return self.progress

    def train_step(self, batches: StepBatches) -> dict[str, float]:
        """One optimiser step; returns its metrics."""
        progress = self.progress
        rate = learning_rate(self.config.optimiser, self.step, progress)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad(set_to_none=True)
        totals: dict[str, float] = {}
        for index, batch in batches.micro_batches:
            metrics = self._backward(index, batch, progress)
            share = 1 / len(batches.micro_batches)
            totals = {name: totals.get(name, 0.0) + share * value for name, value in metrics.items()}
        for p in self.parameters:
            # What no window of this step used has no gradient yet; with more workers it would have one of zero.
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        parallel.sum_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.optimiser.clip_norm)
        for optimiser in self.optimisers:
            optimiser.step()
        self.objective.after_step()
        self.step += 1
        self.positions = self.feed.advance(self.positions, batches.bucket)
        self._update_averages()
        return {**totals, "gradient_norm": parallel.whole(norm).item()}

    def _backward(self, index: int, batch: Any, progress: float) -> dict[str, float]:
        """Adds a micro-batch's share of the gradient; its random numbers depend on seed, step and index alone."""
        generator = torch.Generator().manual_seed(hash((self.config.seed, self.step, index)) % 2**63)
        with autocast(self.device):
            loss, metrics = self.objective.loss(batch, generator, progress)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"the loss became {loss.item()} at step {self.step}: lower the learning rate and resume"
            )
        # Processes that share a window each compute its whole loss, and all gradients are summed.
        (loss / self.config.micro_batches / self.config.parallel.sequence).backward()
        return {"loss": loss.item(), **metrics}

    @torch.no_grad()
    def _update_averages(self) -> None:
        # A young average forgets faster, or it would still remember the random start.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        weights = self._weights()
        slow = [self.averages[name] for name in weights]
        torch._foreach_lerp_(slow, [w.detach() for w in weights.values()], 1 - decay)

    def _log(self, metrics: dict[str, float]) -> None:
        rates = self.observer.throughput.summary()
        metrics = parallel.mean_over_workers(metrics)
        row = {"step": self.step, "elapsed_s": round(self.elapsed_s, 1), **metrics, **rates}
        self.history.append(row)
        if self.rank == 0:
            self.run.output.mkdir(parents=True, exist_ok=True)
            with (self.run.output / "log.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
        self.observer.log(self.history)
        if self.run.on_log:
            self.run.on_log(row)

    def save(self) -> None:
        """Writes the checkpoint (averaged weights), starts writing the state, and starts validation of the averages."""
        self.states.save(self.step, self._state())
        self._save_checkpoint()
        if self.rank == 0:
            self._archive_surplus()
        self.observer.save(self.step, self.averages, last=self.progress >= 1)

    def finish_writing(self) -> None:
        """Waits until states and archived weights are on disk."""
        self.states.wait()
        if self._archiving is not None:
            self._archiving.result()

    def _state(self) -> dict[str, Any]:
        """State dict of a resumable run; also the structure that a saved one is loaded into."""
        return {
            "weights": {name: weight.detach() for name, weight in self._weights().items()},
            "averages": self.averages,
            "optimisers": get_optimizer_state_dict(self._container, self.optimisers, options=FLAT),
            "objective": self.objective.state(),
            "random": torch.get_rng_state(),
            "progress": json.dumps(
                {
                    "step": self.step,
                    "elapsed_s": self.elapsed_s,
                    "positions": self.positions,
                    "history": self.history,
                }
            ),
        }

    def resume(self) -> None:
        """Loads the newest state of the output folder, if there is one, whatever number of workers wrote it."""
        steps = self.states.steps()
        if not steps:
            return
        state = self.states.load(steps[-1], self._state())
        with torch.no_grad():
            for name, weight in self._weights().items():
                weight.copy_(state["weights"][name])
        set_optimizer_state_dict(self._container, self.optimisers, state["optimisers"], options=FLAT)
        self.objective.restore(state["objective"])
        torch.set_rng_state(state["random"])
        progress = json.loads(state["progress"])
        self.step = progress["step"]
        self.elapsed_s = progress["elapsed_s"]
        self.history = progress["history"]
        self.positions = {name: progress["positions"].get(name, 0) for name in self.positions}

    def _save_checkpoint(self) -> None:
        model = self.objective.model
        averages = {name: parallel.whole(tensor) for name, tensor in self.averages.items()}
        if self.rank == 0:
            save_checkpoint(self.run.output, model.config, self._model_weights(averages), self._card())

    def _model_weights(self, averages: dict[str, Tensor]) -> dict[str, Tensor]:
        """All weights of the model, without modules trained beside it (a discriminator), which only the state holds."""
        return {
            name: averages.get(name, tensor) for name, tensor in self.objective.model.state_dict().items()
        }

    def _card(self) -> dict[str, Any]:
        return {
            "stage": self.config.stage,
            "steps": self.step,
            "wall_time_s": round(self.elapsed_s, 1),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, {self.device.type}",
            "data": self.run.data,
            "initialised_from": self.run.init,
            "metrics": self.history[-1] if self.history else {},
            "training": to_dict(self.config),
        }

    def _archive_surplus(self) -> None:
        """Archives the states beyond the number to keep, in a thread."""
        if self._archiving is not None:
            self._archiving.result()
        self._archiving = self._archivist.submit(self._archive_steps, self.states.surplus(), self._card())

    def _archive_steps(self, steps: list[int], card: dict[str, Any]) -> None:
        for step in steps:
            weights = self._model_weights(self.states.averages(step))
            with tempfile.TemporaryDirectory(prefix="gamegen-archive-") as folder:
                config = self.objective.model.config
                save_checkpoint(Path(folder), config, weights, card | {"steps": step}, torch.bfloat16)
                upload_checkpoint(Path(folder), self._archive, step)
            self.states.remove(step)

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


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """List that the first Ctrl-C or termination is added to, so that a run ends between two steps; a second one kills.

    A shell starts background jobs deaf to Ctrl-C; here they receive it. Only a process's main thread can listen: in
    another the list stays empty.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def stop(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

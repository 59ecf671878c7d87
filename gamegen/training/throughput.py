"""Training throughput: samples, tokens, model FLOP utilisation, and the time lost waiting for input."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gamegen.training.feed import StepBatches
from gamegen.training.flops import BatchCost

RATES = ("samples_per_s", "tokens_per_s", "mfu", "input_wait_share", "step_s")
"""What `Throughput.summary` returns."""


@dataclass
class Throughput:
    """Running totals of the steps' cost and of their waiting for input, until the next summary.

    `fetch` gets a step's batches; `finish_step` ends the step. Rates are over all
    `world_size` processes, each of which does as much as this one, and over all time that passed, saving
    included; utilisation is the model's operations by the time and by `peak_flops_per_s` of one device (Chowdhery
    et al. 2022, "PaLM", appendix B). `clock` returns seconds.
    """

    cost_of: Callable[[Any], BatchCost]
    peak_flops_per_s: float
    world_size: int = 1
    clock: Callable[[], float] = time.perf_counter
    latest: dict[str, float] = field(default_factory=dict)
    _began_s: float | None = None
    _step_began_s: float | None = None
    _step_s: float = 0.0
    _wait_s: float = 0.0
    _steps: int = 0
    _costs: list[BatchCost] = field(default_factory=list)

    def fetch(self, stream: Iterator[StepBatches]) -> StepBatches:
        """The next step's batches, having noted how long they took to come."""
        asked_s = self.clock()
        self._began_s = asked_s if self._began_s is None else self._began_s
        self._step_began_s = asked_s if self._step_began_s is None else self._step_began_s
        batches = next(stream)
        came_s = self.clock()
        self._wait_s += came_s - asked_s
        self._costs += [self.cost_of(batch) for _, batch in batches.micro_batches]
        # Counting a shape for the first time takes a while, which is no part of training.
        counting_s = self.clock() - came_s
        self._began_s += counting_s
        self._step_began_s += counting_s
        return batches

    def finish_step(self) -> None:
        """Ends the step that began with the last `fetch`."""
        assert self._step_began_s is not None
        self._step_s += self.clock() - self._step_began_s
        self._step_began_s = None
        self._steps += 1

    def summary(self) -> dict[str, float]:
        """The `RATES` of all steps since the last summary; none if there was no step."""
        if not self._steps:
            return {}
        assert self._began_s is not None
        now_s = self.clock()
        elapsed_s = now_s - self._began_s
        samples, tokens, flops = (
            sum(getattr(cost, name) for cost in self._costs) for name in ("samples", "tokens", "flops")
        )
        self.latest = {
            "samples_per_s": self.world_size * samples / elapsed_s,
            "tokens_per_s": self.world_size * tokens / elapsed_s,
            "mfu": flops / elapsed_s / self.peak_flops_per_s,
            "input_wait_share": self._wait_s / self._step_s,
            "step_s": self._step_s / self._steps,
        }
        self._began_s = now_s
        self._step_s = self._wait_s = 0.0
        self._steps = 0
        self._costs = []
        return self.latest

    def describe(self) -> str:
        """The latest rates for a progress bar; empty before the first summary."""
        if not self.latest:
            return ""
        return f"{self.latest['samples_per_s']:.1f} samples/s, wait {self.latest['input_wait_share']:.0%}"

"""Rates from a clock that the test moves: every number is known."""

import itertools
from collections.abc import Iterator

import pytest
import torch

from gamegen.training.device_peak import device_peak
from gamegen.training.feed import StepBatches
from gamegen.training.flops import BatchCost
from gamegen.training.throughput import Throughput


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def slow_source(self, seconds: float, num_batches: int = 1) -> Iterator[StepBatches]:
        """Steps whose batches take that long to come."""
        for step in itertools.count():
            self.now_s += seconds
            yield StepBatches(step, "any", [(i, None) for i in range(num_batches)])


def test_a_slow_source_shows_as_input_wait():
    clock = Clock()
    throughput = Throughput(lambda batch: BatchCost(8, 100, 1e9), 1e10, clock=clock)
    source = clock.slow_source(3.0)
    for step in range(5):
        assert throughput.fetch(source).step == step
        clock.now_s += 1.0
        throughput.finish_step()
    assert throughput.summary() == {
        "samples_per_s": 2.0,
        "tokens_per_s": 25.0,
        "mfu": pytest.approx(0.025),
        "input_wait_share": 0.75,
        "step_s": 4.0,
    }
    assert throughput.describe() == "2.0 samples/s, wait 75%"


def test_a_step_of_several_batches_between_saves_over_two_processes():
    clock = Clock()
    throughput = Throughput(lambda batch: BatchCost(4, 10, 1.0), 1.0, world_size=2, clock=clock)
    assert throughput.summary() == {} and throughput.describe() == ""
    throughput.fetch(clock.slow_source(2.0, num_batches=2))
    clock.now_s += 2.0
    throughput.finish_step()
    # A save takes time from training, but is no part of a step.
    clock.now_s += 4.0
    rates = throughput.summary()
    assert rates["samples_per_s"] == 2.0
    assert (rates["step_s"], rates["input_wait_share"]) == (4.0, 0.5)
    assert rates["mfu"] == 0.25
    # The next summary knows nothing of the last.
    throughput.fetch(clock.slow_source(0.0))
    clock.now_s += 2.0
    throughput.finish_step()
    assert throughput.summary()["samples_per_s"] == 4.0


def test_counting_a_new_shape_is_no_part_of_a_step():
    clock = Clock()

    def counting(batch):
        clock.now_s += 50.0
        return BatchCost(1, 1, 1.0)

    throughput = Throughput(counting, 1.0, clock=clock)
    throughput.fetch(clock.slow_source(1.0))
    clock.now_s += 1.0
    throughput.finish_step()
    rates = throughput.summary()
    assert (rates["step_s"], rates["samples_per_s"], rates["input_wait_share"]) == (2.0, 0.5, 0.5)


def test_the_peak_of_a_cpu_is_measured_and_says_so():
    random_state = torch.get_rng_state()
    peak = device_peak(torch.device("cpu"))
    assert peak.flops_per_s > 1e8
    assert peak.source.startswith("measured")
    assert torch.equal(torch.get_rng_state(), random_state)

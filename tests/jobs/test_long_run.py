"""A run of many steps with trouble all along, beside one left alone. Left out of the suite: ask for it with `-m long`.

python -m pytest -m long -s tests/jobs/test_long_run.py
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gamegen.models.checkpoint import load_checkpoint
from gamegen.training.loop import Run
from gamegen.training.optimisers import OptimiserConfig
from gamegen.training.run_stage import run_stage
from tests.jobs.faults import drive, kill_workers, saved_steps, stage_file, wait_for_step, wait_until_gone
from tests.threads import threads
from tests.training.samples import encoded_folder, plain_flow, stage

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

STEPS = 600
CONFIG = stage(
    "instructnet",
    steps=STEPS,
    batch_size=4,
    micro_batches=2,
    save_every=10,
    log_every=10,
    optimiser=OptimiserConfig(learning_rate=1e-3, warmup_steps=1, decay_fraction=0.0),
    flow=plain_flow(train_foundation=True, scheduled_sampling_start=0.0),
)
# From which step on, with how many workers, and what then befalls them.
ONE_WORKER = ((100, 1, "worker"), (200, 1, "driver"), (300, 1, "worker"), (400, 1, "driver"), (600, 1, ""))
RESIZED = ((100, 2, "worker"), (200, 1, "driver"), (300, 2, "driver"), (400, 1, "worker"), (600, 2, ""))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return encoded_folder(tmp_path_factory.mktemp("encoded"), num_clips=12)


@pytest.fixture(scope="module")
def untroubled(data, tiny_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("untroubled")
    with threads(1):
        run_stage(CONFIG, data, Run(output=folder, show_progress=False), str(tiny_model))
    return folder


def troubled_run(data: Path, init: Path, folder: Path, troubles) -> Path:
    """A run that loses a worker or its driver at every place of `troubles`."""
    output = folder / "run"
    for step, workers, trouble in troubles:
        driver = drive(stage_file(CONFIG, folder), data, output, str(init), workers)
        if trouble:
            wait_for_step(output, step)
        if trouble == "worker":
            kill_workers(1)
            wait_for_step(output, saved_steps(output)[-1] + 20)
        if trouble:
            driver.kill()
        assert driver.wait() == 0 or trouble
        wait_until_gone()
        print(
            f"with {workers} of {STEPS} steps to {saved_steps(output)[-1]}, then lost: {trouble or 'nothing'}"
        )
    return output


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder, "cpu").model.state_dict()


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return sum((a[name].double() - b[name].double()).square().sum().item() for name in a) ** 0.5


def logged_steps(folder: Path) -> list[int]:
    """Steps of the log, the last word of each."""
    return sorted({json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()})


def test_one_worker_ends_with_the_same_bits(ray_cluster, data, tiny_model, untroubled, tmp_path):
    output = troubled_run(data, tiny_model, tmp_path, ONE_WORKER)
    expected, found = weights(untroubled), weights(output)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_changing_numbers_of_workers_see_the_same_windows(
    ray_cluster, data, tiny_model, untroubled, tmp_path
):
    output = troubled_run(data, tiny_model, tmp_path, RESIZED)
    first, expected, found = weights(tiny_model), weights(untroubled), weights(output)
    share = distance(found, expected) / distance(expected, first)
    print(f"distance from the run left alone: {share:.2%} of the way it went")
    assert share < 0.01
    assert logged_steps(output) == logged_steps(untroubled)

"""Killed workers, killed drivers, other numbers of workers: the run ends where one without trouble does."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import torch

from gamegen.models.checkpoint import load_checkpoint
from gamegen.training.loop import Run
from gamegen.training.optimisers import OptimiserConfig
from gamegen.training.run_stage import run_stage
from gamegen.training.stages.table import load_stage
from jobs import train
from tests.jobs.faults import drive, kill_workers, saved_steps, stage_file, wait_for_step, wait_until_gone
from tests.threads import threads
from tests.training.samples import encoded_folder, plain_flow, stage

STEPS = 32
CONFIG = stage(
    "instructnet",
    steps=STEPS,
    batch_size=4,
    micro_batches=2,
    save_every=4,
    log_every=4,
    keep_states=2,
    optimiser=OptimiserConfig(learning_rate=1e-3, warmup_steps=1, decay_fraction=0.0),
    # Nothing may depend on how far the run is to go: one of them is told to go less far.
    flow=plain_flow(train_foundation=True, scheduled_sampling_start=0.0),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return encoded_folder(tmp_path_factory.mktemp("encoded"))


@pytest.fixture(scope="module")
def untroubled(data, tiny_model, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The averaged weights of the same run without Ray, never stopped."""
    return run_here(data, tmp_path_factory.mktemp("untroubled"), tiny_model)


def run_here(data: Path, output: Path, init: Path) -> dict[str, torch.Tensor]:
    """The averaged weights of a run without Ray, which goes on from the states in `output`."""
    with threads(1):
        run_stage(CONFIG, data, Run(output=output, show_progress=False), str(init))
    return load_checkpoint(output, "cpu").model.state_dict()


@pytest.mark.cluster
@pytest.mark.parametrize("again_with_two", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_killed_driver_a_killed_worker_and_other_numbers_of_workers(
    ray_cluster, data, tiny_model, untroubled, tmp_path, again_with_two
):
    """Two workers until the driver is killed, then one, which is killed too and replaced: it ends with the same bits
    as a run without Ray from the same state. The long one goes on with two again."""
    output = tmp_path / "run"
    driver = drive(stage_file(CONFIG, tmp_path), data, output, str(tiny_model), workers=2)
    wait_for_step(output, 4)
    driver.kill()
    driver.wait()
    wait_until_gone()
    reached = saved_steps(output)[-1]
    assert reached < STEPS - 8
    left = shutil.copytree(output, tmp_path / "left")
    end = STEPS - 4 if again_with_two else STEPS
    arguments = (stage_file(CONFIG, tmp_path, end), data, output, str(tiny_model))
    running = threading.Thread(target=train.run, args=arguments, kwargs={"threads": 1})
    running.start()
    wait_for_step(output, reached + 4)
    kill_workers()
    running.join(400)
    assert not running.is_alive()
    assert saved_steps(output)[-1] == end
    if again_with_two:
        train.run(stage_file(CONFIG, tmp_path), data, output, str(tiny_model), workers=2, threads=1)
    found = load_checkpoint(output, "cpu")
    assert found.card["steps"] == STEPS
    expected = untroubled if again_with_two else run_here(data, left, tiny_model)
    for name, weight in found.model.state_dict().items():
        torch.testing.assert_close(weight, untroubled[name], rtol=1e-3, atol=2e-4)
        assert again_with_two or torch.equal(weight, expected[name]), name


def test_workers_that_cannot_share_are_refused_before_they_start(ray_cluster, data, tmp_path):
    with pytest.raises(ValueError, match="3 workers cannot share 2 micro-batches a step equally"):
        train.run(stage_file(CONFIG, tmp_path), data, tmp_path / "run", workers=3)


def test_the_stage_of_this_file_is_what_its_yaml_says(tmp_path):
    assert load_stage(Path(stage_file(CONFIG, tmp_path))) == CONFIG

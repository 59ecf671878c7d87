"""Several processes: the same steps as one, replicated, sharded or sharing windows; any number loads a state."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from gamegen import device
from gamegen.models.checkpoint import load_checkpoint
from gamegen.models.msdit import MSDiT, MSDiTConfig
from gamegen.models.network_inputs import Previous, Text
from gamegen.training import muon
from gamegen.training.optimisers import OptimiserConfig
from gamegen.training.parallel import ParallelConfig, SharedTime, prepare
from gamegen.training.stage_config import TrainingBucket
from gamegen.training.stages.stage import Stage
from tests.serving import free_port
from tests.training.samples import SIZE, encoded_folder, plain_flow, stage, trainer

WHOLE = stage(
    "instructnet",
    batch_size=4,
    micro_batches=2,
    steps=4,
    save_every=4,
    buckets=(TrainingBucket(SIZE, 16, 0.75), TrainingBucket(SIZE, 1, 0.25)),
    optimiser=OptimiserConfig(learning_rate=1e-3, warmup_steps=1, decay_fraction=0.0),
    flow=plain_flow(train_foundation=True, scheduled_sampling=0.5, scheduled_sampling_start=0.0),
)


def shared(**parallel) -> Stage:
    return dataclasses.replace(WHOLE, parallel=ParallelConfig(**parallel))


RUNS = {
    "ddp": shared(),
    "zero2": shared(strategy="zero2"),
    "zero3": shared(strategy="zero3", checkpoint_activations=True),
    "sequence": shared(sequence=2),
    "sequence and zero3": shared(strategy="zero3", sequence=2),
}


def train(config: Stage, folder: Path, data: Path) -> None:
    """Trains in as many processes as there are, in float32 on any CPU: bfloat16 makes much of other orders of sums."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    sequence = config.parallel.sequence
    with pytest.MonkeyPatch.context() as patch:
        for module in (device, muon):
            patch.setattr(module, "compute_dtype", lambda device: torch.float32)
        trainer(config, folder, data, rank // sequence, world // sequence).train()


def first_half(config: Stage) -> Stage:
    return dataclasses.replace(config, steps=2)


def in_pair(rank: int, port: int, root: Path, data: Path) -> None:
    """All that two processes do in this file, at one start."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for name, config in RUNS.items():
        train(config, root / name, data)
    train(first_half(RUNS["zero3"]), root / "two to one", data)
    train(RUNS["zero3"], root / "one to two", data)
    dist.destroy_process_group()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder, "cpu").model.state_dict()


def together(work: Callable[..., None], arguments: tuple[Any, ...], num_processes: int) -> None:
    """Runs `work(rank, *arguments)` in processes that are forked from one which has imported this file."""
    set_forkserver_preload([__name__])
    mp.start_processes(work, arguments, num_processes, start_method="forkserver")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with the run of one process in `alone` and those of two beside it."""
    root = tmp_path_factory.mktemp("runs")
    data = encoded_folder(root / "data")
    train(WHOLE, root / "alone", data)
    train(first_half(WHOLE), root / "one to two", data)
    together(in_pair, (free_port(), root, data), 2)
    train(WHOLE, root / "two to one", data)
    return root


@pytest.mark.parametrize("name", [*RUNS, "one to two", "two to one"])
def test_two_processes_learn_what_one_does(root, name):
    """Sums are taken in another order, so the last bits differ; Adam's first steps make that visible."""
    found, expected = weights(root / name), weights(root / "alone")
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_recomputed_activations_change_no_bit(root, tmp_path):
    train(shared(checkpoint_activations=True), tmp_path, root / "data")
    expected = weights(root / "alone")
    for key, weight in weights(tmp_path).items():
        assert torch.equal(weight, expected[key]), key


def test_a_window_that_does_not_divide_is_computed_whole():
    shared_time = object.__new__(SharedTime)
    shared_time.size = 2
    assert shared_time.divides(4) and not shared_time.divides(1)


def in_four(rank: int, port: int, results: Path, width: int) -> None:
    """One layer of the `xl` model, so wide, made of shards alone."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=4)
    # Half the memory; what is computed is one token.
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = MSDiT(MSDiTConfig(width=width, num_layers=1, num_heads=32, mlp_ratio=4))
    prepare([model], ParallelConfig("zero3"), torch.device("cpu"))
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.to_local().normal_(0, 0.01)  # type: ignore[operator]
    latent, level = torch.randn(1, 1, 16, 2, 2), torch.rand(1, 1)
    model(latent, level, Previous(latent, latent, level), Text.none(1, 384)).square().mean().backward()
    gradients = [parameter.grad.to_local() for parameter in model.parameters()]  # type: ignore[union-attr]
    torch.save(
        {
            "elements": sum(parameter.to_local().numel() for parameter in model.parameters()),
            "all": sum(parameter.numel() for parameter in model.parameters()),
            "finite": all(bool(gradient.isfinite().all()) for gradient in gradients),
        },
        results / f"{rank}.pt",
    )
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("width, least", [(256, 3.5e6), pytest.param(4096, 800e6, marks=pytest.mark.long)])
def test_four_processes_hold_a_quarter_each_of_a_layer_of_the_largest_model(tmp_path, width, least):
    """The narrow one has every tensor of such a layer, each in four parts; the long one their sizes too."""
    together(in_four, (free_port(), tmp_path, width), 4)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(4)]
    assert all(result["finite"] for result in found)
    total = found[0]["all"]
    assert total > least
    assert sum(result["elements"] for result in found) == total
    # Small vectors do not divide by four exactly.
    assert max(result["elements"] for result in found) < 0.251 * total

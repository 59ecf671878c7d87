"""Stages that train parts of a world model: its autoencoder, foundation or InstructNet."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from gamegen.device import default_device
from gamegen.files import write_atomically
from gamegen.models.checkpoint import load_checkpoint
from gamegen.models.configs import named_config
from gamegen.models.model import Model, ModelConfig
from gamegen.models.msdit import PATCH
from gamegen.models.sampling import SamplingConfig
from gamegen.training import parallel
from gamegen.training.feed import WindowDataset
from gamegen.training.flops import (
    FORWARD_AND_BACKWARD,
    FORWARD_AND_INPUT_GRADIENT,
    BatchCost,
    latent_batch_cost,
    window_flops,
)
from gamegen.training.latent_windows import LatentBatch, LatentWindows
from gamegen.training.objectives.flow_matching import FlowLossConfig, FlowObjective
from gamegen.training.parallel import ParallelConfig
from gamegen.training.stages.stage import Stage

INITIAL_FILE = "initial.safetensors"
PATCH_IN, PLANES_IN = "foundation.patch_in.weight", "foundation.refiner.planes_in.weight"
"""Names of the weights that read the foundation's inputs, patch by patch and place by place."""


@dataclass(frozen=True, kw_only=True)
class WorldModelStage(Stage[ModelConfig, Model]):
    """A stage whose checkpoint is that of a world model."""

    @abstractmethod
    def start(self, init: Path | str | None, data: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
        """The model's config and the weights it starts from; parts without weights begin at random."""

    def build_model(self, init: Path | str | None, data: Path, output: Path) -> Model:
        config, weights = self.start(init, data)
        return build_model(config, weights, self.parallel, output)

    def load_init(self, init: Path | str | None) -> tuple[ModelConfig, dict[str, Tensor]]:
        """Config and weights of the checkpoint that the stage builds on; raises ValueError if there is none."""
        if init is None:
            raise ValueError(f"the {self.stage} stage builds on another: pass its checkpoint with --init")
        checkpoint = load_checkpoint(init, "cpu")
        return checkpoint.config, checkpoint.model.state_dict()


@dataclass(frozen=True, kw_only=True)
class LatentStage(WorldModelStage):
    """A stage that trains foundation and InstructNet on windows of latents.

    With `motion_compensation`, a foundation beside a motion network is given motion-compensated latents; one that was
    not learns to. False leaves it as it is.
    """

    shards: ClassVar[Literal["curated", "encoded"]] = "encoded"
    flow: FlowLossConfig = field(default_factory=FlowLossConfig)
    motion_compensation: bool = True

    def extended(
        self, config: ModelConfig, weights: dict[str, Tensor]
    ) -> tuple[ModelConfig, dict[str, Tensor]]:
        """Config and weights of the same model with what its foundation still lacks of `model`'s.

        It is given motion-compensated latents if it can be, and a refiner if the named size has one. One that was
        distilled is sampled by the flow that it learns from now on: in a student's few steps it would draw means.
        """
        if config.sampling.solver == "consistency":
            usual = SamplingConfig()
            sampling = replace(
                config.sampling, solver="euler", num_steps=usual.num_steps, first_steps=usual.first_steps
            )
            config = replace(config, sampling=sampling)
        sizes = named_config(self.model).foundation
        if config.foundation is not None and sizes is not None and not config.foundation.refiner_width:
            foundation = replace(
                config.foundation, refiner_width=sizes.refiner_width, refiner_blocks=sizes.refiner_blocks
            )
            config = replace(config, foundation=foundation)
        if config.foundation is None or config.foundation.motion_compensation:
            return config, weights
        if config.motion is None or not self.motion_compensation:
            return config, weights
        config = replace(config, foundation=replace(config.foundation, motion_compensation=True))
        # The confidence comes last among the planes, and counts for nothing at first.
        one_more = {PATCH_IN: (0, PATCH**2), PLANES_IN: (0, 0, 0, 0, 0, 1)}
        padded = {name: F.pad(weights[name], pad) for name, pad in one_more.items() if name in weights}
        return config, weights | padded

    def windows(self, model: ModelConfig) -> WindowDataset:
        return self.latent_windows(model)

    def latent_windows(self, model: ModelConfig) -> LatentWindows:
        """The windows of latents for a model of these sizes."""
        return LatentWindows(
            model,
            transition_windows=self.flow.transition_windows,
            still_windows=self.flow.still_windows,
        )

    def objective(self, model: Model) -> FlowObjective:
        return FlowObjective(model, self.flow)

    def batch_cost(self, model: ModelConfig, batch: LatentBatch) -> BatchCost:
        window = window_flops(model, batch)
        if window.instructnet == 0 or self.flow.train_foundation:
            return latent_batch_cost(batch, FORWARD_AND_BACKWARD * window.total)
        # The first layer comes before any of InstructNet, so no gradient goes back through it.
        assert model.foundation is not None
        foundation_passes = FORWARD_AND_INPUT_GRADIENT - 1 / model.foundation.num_layers
        flops = foundation_passes * window.foundation + FORWARD_AND_BACKWARD * window.instructnet
        return latent_batch_cost(batch, flops)


def build_model(
    config: ModelConfig, weights: dict[str, Tensor], parallel_config: ParallelConfig, output: Path
) -> Model:
    """A model of `config` with `weights`, on this process's device; parts without weights are random.

    Where states are sharded, the first process writes those weights once and all map the file: none of them holds
    the whole model in memory while it is cut up.
    """
    is_sharded = parallel.is_sharded(parallel_config)
    file = output / INITIAL_FILE
    if not is_sharded or parallel.rank() == 0:
        model = Model(config)
        model.load_state_dict(weights, strict=False)
        if not is_sharded:
            return model.to(default_device())
        output.mkdir(parents=True, exist_ok=True)
        with write_atomically(file) as partial:
            save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, partial)
        del model
    dist.barrier()
    with torch.device("meta"):
        model = Model(config)
    model.load_state_dict(load_file(file), assign=True)
    model.set_statistics()
    return model

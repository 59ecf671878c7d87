"""The interface of a training stage: settings, and the model, data, objective and cost they stand for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, Literal, TypeVar

from gamegen.models.inverse_dynamics import InverseDynamics, InverseDynamicsConfig
from gamegen.models.model import Model, ModelConfig
from gamegen.training.feed import Batch, WindowDataset
from gamegen.training.flops import BatchCost
from gamegen.training.objectives.objective import Objective
from gamegen.training.stage_config import StageConfig

ConfigT = TypeVar("ConfigT", ModelConfig, InverseDynamicsConfig)
ModelT = TypeVar("ModelT", Model, InverseDynamics)


@dataclass(frozen=True, kw_only=True)
class Stage(StageConfig, ABC, Generic[ConfigT, ModelT]):
    """One stage of training.

    A subclass adds the settings of its own, gives `stage` its name, and builds everything that depends on them. Its
    instances are what `gamegen/configs/stages/*.yaml` load as.
    """

    shards: ClassVar[Literal["curated", "encoded"]]
    """The kind of shards its windows are read from."""

    @abstractmethod
    def build_model(self, init: Path | str | None, data: Path, output: Path) -> ModelT:
        """The model a run begins with, on this process's device.

        `init` is the checkpoint it builds on, `data` the folder of shards, `output` the run's folder. Raises
        ValueError where the stage needs another `init`, FileNotFoundError where `data` lacks a file.
        """

    @abstractmethod
    def windows(self, model: ConfigT) -> WindowDataset:
        """The dataset of windows for a model of these sizes."""

    @abstractmethod
    def objective(self, model: ModelT) -> Objective:
        """The objective that trains `model`."""

    @abstractmethod
    def batch_cost(self, model: ConfigT, batch: Batch) -> BatchCost:
        """Samples, tokens and operations of one batch's forward and backward pass."""

    def initialise(self, objective: Objective, example: Callable[[int], Batch], is_new: bool) -> None:
        """Hook before the first step, not called in a resumed run; `example(n)` gives n micro-batches as one.

        `is_new` is false where the model comes from a checkpoint, though parts of it may be new.
        """

    def finish(self, output: Path, data: Path) -> None:
        """Hook after the last step, called in the process of rank 0."""

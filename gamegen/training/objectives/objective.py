"""The objective that a training stage minimises. It owns its model; the loop and the data are elsewhere.

Shape suffixes as in `gamegen/flow.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gamegen.models.inverse_dynamics import InverseDynamics
from gamegen.models.model import Model
from gamegen.training.parallel import SharedTime

Metrics = dict[str, float]


class Objective(ABC):
    """A model, the parameters a stage trains, its loss, and a contact sheet of its samples."""

    model: Model | InverseDynamics
    shared_time: SharedTime | None = None

    @abstractmethod
    def trained_modules(self) -> dict[str, nn.Module]:
        """The modules to optimise, by their name in the checkpoint."""

    def sharded_modules(self) -> list[nn.Module]:
        """The modules that a run with sharded states splits among its processes: trained ones and copies of them."""
        return list(self.trained_modules().values())

    @abstractmethod
    def loss(self, batch: Any, generator: torch.Generator, progress: float) -> tuple[Tensor, Metrics]:
        """The scalar to minimise and the metrics to log; `progress` runs from 0 to 1 over the stage."""

    @abstractmethod
    def sheet(self, batch: Any) -> np.ndarray:
        """A contact sheet, uint8 `(H, W, 3)`: truth beside the model's output."""

    def after_step(self) -> None:  # noqa: B027  (a hook that most objectives leave empty)
        """Hook called after each optimiser step."""

    def state(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs besides the trained modules and the optimisers."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:  # noqa: B027
        """Loads the tensors that `state` returned."""

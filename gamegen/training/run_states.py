"""RunStates to resume from: written beside the training, the newest few kept, of older ones the weights archived.

    OUTPUT/states/000400/     torch.distributed.checkpoint: weights, averages, optimisers, position; any number of
                              workers can load it, whatever number wrote it
    ARCHIVE/000300/           averaged weights alone, as a checkpoint in bfloat16

A state counts once its `.metadata` is there, which is written last.
"""

from __future__ import annotations

import shutil
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from gamegen.storage.interface import ObjectStore

COMPLETE = ".metadata"
# One process alone is a way to train as good as any other.
warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)


def complete_steps(folder: Path) -> list[int]:
    """Steps of the complete states in a folder, oldest first; none if it does not exist."""
    return sorted(int(path.parent.name) for path in folder.glob(f"*/{COMPLETE}"))


class RunStates:
    """The states of one run."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._writing: Future[Any] | None = None
        # Saving talks among the processes while they train: it needs a line of its own.
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def steps(self) -> list[int]:
        """Steps of the complete states, oldest first."""
        return complete_steps(self.folder)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Starts writing a state; what is in it may change as soon as this returns."""
        self.wait()
        self._writing = dcp.async_save(  # type: ignore[assignment]
            state, checkpoint_id=self._path(step), process_group=self._group, no_dist=self._group is None
        )

    def wait(self) -> None:
        """Returns when the last state is on disk; raises what went wrong with it."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def load(self, step: int, state: dict[str, Any]) -> dict[str, Any]:
        """Fills `state`, which has the shape of what was saved, and returns it."""
        dcp.load(
            state, checkpoint_id=self._path(step), process_group=self._group, no_dist=self._group is None
        )
        return state

    def surplus(self) -> list[int]:
        """Steps of complete states beyond the number to keep, oldest first."""
        return self.steps()[: -self.keep]

    def remove(self, step: int) -> None:
        """Deletes a state."""
        shutil.rmtree(self._path(step))

    def averages(self, step: int) -> dict[str, Tensor]:
        """The averaged weights of a state, whole, in this process alone."""
        reader = dcp.FileSystemReader(self._path(step))
        stored = reader.read_metadata().state_dict_metadata
        prefix = "averages."
        weights = {
            name.removeprefix(prefix): torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in stored.items()
            if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
        }
        dcp.load({"averages": weights}, storage_reader=reader, no_dist=True)
        return weights

    def _path(self, step: int) -> Path:
        return self.folder / f"{step:06d}"


def upload_checkpoint(folder: Path, store: ObjectStore, step: int) -> None:
    """Copies a checkpoint folder's files into the archive under its step."""
    for file in sorted(folder.iterdir()):
        store.upload(f"{step:06d}/{file.name}", file)

"""The table of training stages, and loading one from its YAML file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from gamegen.config import build, config_file, read_yaml
from gamegen.training.stages.adversarial import AdversarialStage
from gamegen.training.stages.decoder import DecoderStage
from gamegen.training.stages.foundation import FoundationStage
from gamegen.training.stages.instructnet import InstructNetStage
from gamegen.training.stages.inverse_dynamics import InverseDynamicsStage
from gamegen.training.stages.motion import MotionStage
from gamegen.training.stages.sparse import SparseStage
from gamegen.training.stages.stage import Stage
from gamegen.training.stages.streaming import StreamingStage
from gamegen.training.stages.turbo import TurboStage
from gamegen.training.stages.vae import VAEStage

STAGES: dict[str, type[Stage]] = {
    "vae": VAEStage,
    "foundation": FoundationStage,
    "instructnet": InstructNetStage,
    "turbo": TurboStage,
    "adversarial": AdversarialStage,
    "sparse": SparseStage,
    "decoder": DecoderStage,
    "idm": InverseDynamicsStage,
    "motion": MotionStage,
    "streaming": StreamingStage,
}
"""Every stage by its name: the value of `stage` in a YAML file."""


def stage_file(name: str) -> Path:
    """The YAML file of a named stage, or the path itself; raises ValueError for neither."""
    return config_file("stages", name)


def shards_help() -> str:
    """Help text of the commands' --data option: the kind of shards that each stage reads."""
    curated = ", ".join(name for name, stage in STAGES.items() if stage.shards == "curated")
    return f"curated shards ({curated}) or encoded shards (other stages)"


RENAMED_SETTINGS = {
    ("visits",): "repeats",
    ("flow", "own_predictions"): "scheduled_sampling",
    ("flow", "own_start"): "scheduled_sampling_start",
}
"""Keys of settings that had another name in earlier versions, with their name of today."""


def load_stage(path: Path) -> Stage:
    """A stage with the settings of a YAML file; raises ValueError naming the wrong key."""
    return build_stage(read_yaml(path, "a training stage"), str(path))


def build_stage(settings: dict[str, Any], where: str) -> Stage:
    """A stage from nested dicts; `where` names the source in errors.

    Settings of other stages are ignored, so that a file may hold those of several.
    """
    settings = _with_current_names(settings, where)
    name = settings.get("stage")
    if name not in STAGES:
        raise ValueError(f"{where}: stage = {name!r}: expected one of {', '.join(STAGES)}")
    stage = STAGES[name]
    foreign = {key for other in STAGES.values() for key in _keys(other)} - _keys(stage)
    return build(stage, {key: value for key, value in settings.items() if key not in foreign}, where)


def _with_current_names(settings: dict[str, Any], where: str) -> dict[str, Any]:
    settings = {key: dict(value) if isinstance(value, dict) else value for key, value in settings.items()}
    for (*sections, old), new in RENAMED_SETTINGS.items():
        section = settings
        for name in sections:
            section = section.get(name) or {}
        if old in section:
            if new in section:
                raise ValueError(f"{where}: {old!r} is the earlier name of {new!r}: give one of them")
            section[new] = section.pop(old)
    return settings


def _keys(stage: type[Stage]) -> set[str]:
    return {field.name for field in fields(stage)}

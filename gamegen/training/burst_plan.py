"""The plan of a burst: stages one after the other, each with its minutes; and what lies where in a pack."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gamegen.config import config_file, load_yaml
from gamegen.training.stages.stage import Stage
from gamegen.training.stages.table import build_stage

ENCODED_FOLDER, CURATED_FOLDER, INIT_FOLDER = "encoded", "curated", "init"
PLAN_FILE, MANIFEST_FILE = "plan.yaml", "manifest.json"


@dataclass(frozen=True, kw_only=True)
class BurstStage:
    """One stage: its `settings`, as in a file of `gamegen/configs/stages/`, and the most `minutes` it takes."""

    minutes: float
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"minutes = {self.minutes}: must be above 0")


@dataclass(frozen=True, kw_only=True)
class BurstPlan:
    """Stages in order, each building on the one before; the first on the parts `keep` of the checkpoint `init`.

    Besides those of its autoencoder a checkpoint may have the parts motion, foundation and instructnet. A part that is
    not kept is made anew by the stage that trains it.
    """

    stages: tuple[BurstStage, ...]
    init: str = "nano"
    keep: tuple[str, ...] = ("motion", "foundation", "instructnet")

    def build(self) -> list[Stage]:
        """The stages with their settings; raises ValueError naming a wrong key."""
        return [
            build_stage(stage.settings, f"stage {number} of the plan")
            for number, stage in enumerate(self.stages, 1)
        ]

    def reads(self, shards: str) -> bool:
        """True if any stage of the plan trains on shards of this kind, `curated` or `encoded`."""
        return any(stage.shards == shards for stage in self.build())


def load_plan(file: Path) -> BurstPlan:
    """A plan from its YAML file; raises ValueError naming the wrong key."""
    plan = load_yaml(BurstPlan, file)
    if not plan.stages:
        raise ValueError(f"{file}: stages: a plan needs at least one")
    plan.build()
    return plan


def plan_file(name: str) -> Path:
    """The YAML file of a named plan, or the path itself; raises ValueError for neither."""
    return config_file("bursts", name)

"""What people install: built once, put elsewhere, and used there in a network without a way out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import yaml

from gamegen.config import to_dict
from gamegen.models.model import ModelConfig
from gamegen.training.stage_config import TrainingBucket
from gamegen.training.stages.vae import VAELossConfig, VAEStage
from tests.packaging.distribution import Distribution, build, clean_environment, install
from tests.packaging.quiet_network import Outcome, Step
from tests.serving import free_port
from tests.training.samples import panning_folder

PATIENCE_S = 900.0


@dataclass(frozen=True)
class Used:
    """What became of each command; `why_unrecorded` says why nothing is known of their packets, if so."""

    outcomes: dict[str, Outcome]
    folder: Path
    why_unrecorded: str | None


@pytest.fixture(scope="session")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    return build(tmp_path_factory.mktemp("distribution"))


@pytest.fixture(scope="session")
def used(
    distribution: Distribution, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Used]:
    """Everything that is asked of an installed GameGen, one command after the other, away from the repository."""
    place = tmp_path_factory.mktemp("installed") / "Jörg's world"
    place.mkdir()
    programs = install(distribution.wheel, place / "venv")
    data = panning_folder(place / "data")
    stage = _tiny_stage(place)
    # Another user may run the database, and a socket's path is short.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="gg") as home:
        Path(home).chmod(0o711)
        steps = _steps(programs, tiny_model, data, stage)
        why, network = own_network()
        plan, results = place / "plan.json", place / "results.json"
        plan.write_text(json.dumps([asdict(step) for step in steps]))
        script = Path(__file__).with_name("quiet_network.py")
        kind = "shared" if why else "isolated"
        subprocess.run(
            [*network, sys.executable, str(script), str(plan), str(results), kind],
            cwd=place,
            env=clean_environment(Path(home)),
            timeout=PATIENCE_S,
            check=True,
        )
        outcomes = {name: Outcome(**outcome) for name, outcome in json.loads(results.read_text()).items()}
        yield Used(outcomes, place, why)


def _steps(programs: Path, model: Path, data: Path, stage: Path) -> list[Step]:
    gamegen, python = str(programs / "gamegen"), str(programs / "python")
    port = free_port()
    clip = [
        "videos",
        "create",
        "a desert",
        "--frames",
        "4",
        "-o",
        "ordered.mp4",
        "--url",
        f"http://127.0.0.1:{port}",
    ]
    tiny = ["--model", str(model)]
    return [
        Step("info", [gamegen, "info"]),
        Step("sizes", [gamegen, "models", "sizes"]),
        Step(
            "rollout", [gamegen, "rollout", "--prompt", "desert at noon", "--keys", "w*8", "-o", "played.png"]
        ),
        Step("generate", [gamegen, "generate", "a desert", "--frames", "10", "-o", "clip.mp4", *tiny]),
        Step(
            "training",
            [python, "-m", "gamegen.training", str(stage), "--data", str(data), "--output", "trained"],
        ),
        Step("train", [gamegen, "train", "--help"]),
        Step(
            "play",
            [gamegen, "play", "--port", str(port), *tiny],
            until="ready in",
            then=[[gamegen, *clip], [gamegen, "verify", "ordered.mp4"]],
        ),
    ]


def _tiny_stage(folder: Path) -> Path:
    """A stage of two steps over the clips of `panning_folder`."""
    (folder / "tiny.yaml").write_text(_yaml(ModelConfig.tiny()))
    stage = VAEStage(
        model=str(folder / "tiny.yaml"),
        steps=2,
        batch_size=2,
        buckets=(TrainingBucket("128x72", 12),),
        log_every=1,
        save_every=2,
        vae_loss=VAELossConfig(crop=32),
    )
    (folder / "stage.yaml").write_text(_yaml(stage))
    return folder / "stage.yaml"


def _yaml(config: object) -> str:
    return yaml.safe_dump(json.loads(json.dumps(to_dict(config))))


def own_network() -> tuple[str | None, list[str]]:
    """Why there can be no network of one's own, and if there can, the command that runs others in one."""
    command = ["unshare", "--net"]
    if os.geteuid() != 0:
        command += ["--map-current-user", "--keep-caps"]
    try:
        done = subprocess.run(
            [*command, "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        return f"{error.filename} is not installed", []
    if done.returncode != 0:
        return f"no network of its own: {done.stderr.strip()}", []
    return None, command

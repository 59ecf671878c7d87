"""Troubles for training runs: killed workers, killed drivers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ray
import yaml

from gamegen.config import to_dict
from gamegen.training.stages.stage import Stage


def stage_file(config: Stage, folder: Path, steps: int | None = None) -> str:
    """A stage as a YAML file, told to go `steps` far."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        return [plain(part) for part in value] if isinstance(value, list | tuple) else value

    steps = steps or config.steps
    file = folder / f"stage-{steps}.yaml"
    file.write_text(yaml.safe_dump(plain(to_dict(config)) | {"steps": steps}))
    return str(file)


def drive(stage: str, data: Path, output: Path, init: str, workers: int) -> subprocess.Popen[bytes]:
    """A driver in a process of its own, on the running Ray."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "jobs.train", stage, "--data", str(data)]
    command += ["--output", str(output), "--init", init, "--workers", str(workers), "--threads", "1"]
    return subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": address})


def saved_steps(output: Path) -> list[int]:
    """Steps of the states that are whole."""
    return sorted(int(path.parent.name) for path in (output / "states").glob("*/.metadata"))


def wait_for_step(output: Path, step: int, timeout_s: float = 240) -> None:
    """Returns once a state of that step or a later one is saved."""
    deadline = time.monotonic() + timeout_s
    while not any(saved >= step for saved in saved_steps(output)):
        assert time.monotonic() < deadline, f"no state of step {step} after {timeout_s} s"
        time.sleep(0.05)


def training_workers() -> list[int]:
    """Process numbers of Ray Train's workers on this machine."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if command.startswith(b"ray::") and b"TrainWorker" in command:
                found.append(int(entry.name))
    return found


def kill_workers(count: int | None = None) -> None:
    """Kills some of the workers that train, or all."""
    victims = training_workers()[:count]
    assert victims
    for victim in victims:
        os.kill(victim, signal.SIGKILL)


def wait_until_gone(timeout_s: float = 60) -> None:
    """Ray ends the workers of a driver that died."""
    deadline = time.monotonic() + timeout_s
    while training_workers():
        assert time.monotonic() < deadline
        time.sleep(0.1)

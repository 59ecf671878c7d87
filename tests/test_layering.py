"""Who may import whom, checked on every import statement, also those inside functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
BASE = {
    "boxes",
    "config",
    "controls",
    "device",
    "first_frames",
    "fragments",
    "grouping",
    "session_file",
    "session_log",
    "uploaded_video",
    "video",
}
ENGINE = BASE | {
    "flow",
    "models",
    "snapshot",
    "session",
    "batch_inputs",
    "engine",
    "video_prompts",
    "world",
}
MAY_IMPORT: dict[str, set[str]] = {
    **dict.fromkeys(BASE, BASE),
    "flow": BASE,
    "models": BASE | {"flow"},
    "snapshot": BASE | {"models"},
    "session": BASE | {"models", "snapshot"},
    "batch_inputs": BASE | {"flow", "models", "snapshot", "session"},
    "engine": BASE | {"flow", "models", "snapshot", "session", "batch_inputs", "video_prompts"},
    "world": BASE | {"flow", "models", "snapshot", "session", "engine", "video_prompts"},
    "video_prompts": BASE | {"models"},
    "clips": ENGINE | {"videos"},
    "pipeline": ENGINE | {"clips", "videos"},
    "replay": ENGINE | {"footage"},
    "replay_command": ENGINE | {"footage", "replay"},
    "videos_command": set(),
    "footage": BASE,
    "retention": BASE | {"database", "storage", "videos"},
    "backup": BASE | {"database", "storage", "videos"},
    "curation": BASE | {"models", "footage", "video_prompts"},
    # Distillation is a training objective: the two rooms know each other, nobody inside knows either.
    "turbo": ENGINE | {"training"},
    "training": ENGINE | {"footage", "curation", "turbo", "storage"},
    "evaluation": ENGINE | {"pipeline", "footage", "curation", "training"},
    "bench": ENGINE | {"clips", "pipeline", "training"},
    "storage": BASE,
    "database": BASE,
    "videos": BASE | {"database", "webhooks"},
    # An order that ends writes the message about it: the two rooms know each other.
    "webhooks": BASE | {"database", "storage", "videos"},
    "safety": BASE | {"videos"},
    "provenance": set(),
    "registry": BASE | {"models", "storage", "evaluation"},
}
"""For each room of `gamegen`, the rooms that it may import besides itself. `cli` may import all of them."""
NOT_IN_LIBRARY = {"ray", "jobs", "deployments", "fastapi", "uvicorn"}
FORBIDDEN_IN = {"jobs": {"deployments", "fastapi"}, "deployments": {"jobs"}}


def imported_modules(file: Path) -> set[str]:
    """Absolute names of everything that a file imports anywhere."""
    package = file.relative_to(REPOSITORY).with_suffix("").parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module or "")))
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def files_of(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


def room_of(file: Path) -> str:
    return file.relative_to(REPOSITORY / "gamegen").with_suffix("").parts[0]


@pytest.mark.parametrize("file", files_of("gamegen"), ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_the_library_keeps_to_itself_and_looks_inwards(file: Path) -> None:
    names = imported_modules(file)
    outside = {name for name in names if name.split(".")[0] in NOT_IN_LIBRARY}
    assert not outside, f"{file} is library code: it must not import {sorted(outside)}"
    room = room_of(file)
    if room in ("cli", "__init__"):
        return
    assert room in MAY_IMPORT, f"gamegen/{room} is a new room: say in MAY_IMPORT what it may import"
    rooms = {name.split(".")[1] for name in names if name.startswith("gamegen.")}
    outer = rooms - MAY_IMPORT[room] - {room}
    assert not outer, f"{file}: {room} must not import {sorted(outer)}"


@pytest.mark.parametrize("package", sorted(FORBIDDEN_IN))
def test_jobs_and_deployments_do_not_know_each_other(package: str) -> None:
    for file in files_of(package):
        found = {name for name in imported_modules(file) if name.split(".")[0] in FORBIDDEN_IN[package]}
        assert not found, f"{file} must not import {sorted(found)}"


def test_every_way_to_import_is_seen(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tests.test_layering.REPOSITORY", tmp_path)
    (tmp_path / "gamegen" / "models").mkdir(parents=True)
    file = tmp_path / "gamegen" / "models" / "vae.py"
    file.write_text("from .. import world\nfrom .text import a\ndef f():\n    import ray.data as d\n")
    assert imported_modules(file) == {"gamegen.world", "gamegen.models.text.a", "ray.data"}

"""Allowed imports between rooms, checked on every import statement, those inside functions included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from gamegen import cli

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("gamegen", "jobs", "deployments", "loadtest", "cluster")

BASE = {
    f"gamegen.{name}"
    for name in ("config", "constants", "controls", "device", "files", "folders", "microbatch", "process")
}
MEDIA = BASE | {"gamegen.media", "gamegen.sessions"}
MODELS = MEDIA | {"gamegen.flow", "gamegen.models"}
ENGINE = MODELS | {"gamegen.engine", "gamegen.gallery", "gamegen.world"}
SERVICE = {
    f"gamegen.service.{room}" for room in ("backup", "database", "orders", "retention", "safety", "webhooks")
}
LIBRARY = (
    ENGINE
    | SERVICE
    | {f"gamegen.{room}" for room in ("generation", "provenance", "storage", "telemetry")}
    | {"gamegen"}
)
REPLICA = {"deployments.background", "deployments.observability", "deployments.sessions"}
REQUESTS = {f"deployments.{r}" for r in ("errors", "limits", "prompts", "request_schemas")}
INGRESS = REPLICA | REQUESTS | {f"deployments.{r}" for r in ("clients", "rate_limit", "replicas", "settings")}
APPLICATION = {
    f"deployments.{name}"
    for name in ("app", "embedded_store", "environment", "sessions", "settings", "stores", "videos")
}

MAY_IMPORT: dict[str, set[str]] = {
    # The library. Inner rooms first.
    "gamegen.config": set(),
    "gamegen.constants": set(),
    "gamegen.controls": {"gamegen.constants"},
    "gamegen.device": set(),
    "gamegen.microbatch": set(),
    "gamegen.files": set(),
    "gamegen.telemetry": set(),
    "gamegen.folders": set(),
    "gamegen.unix_sockets": set(),
    "gamegen.process": set(),
    "gamegen.flow": BASE,
    "gamegen.pages": set(),
    "gamegen.models": BASE | {"gamegen.flow", "gamegen.media"},
    "gamegen.sessions": BASE | {"gamegen.media"},
    "gamegen.media": {"gamegen.constants", "gamegen.files"},
    "gamegen.engine": MODELS | {"gamegen.gallery"},
    "gamegen.gallery": MODELS | {"gamegen.curation"},
    "gamegen.world": MODELS | {"gamegen.engine", "gamegen.gallery"},
    "gamegen.generation": ENGINE,
    "gamegen.pipeline": ENGINE | {"gamegen.generation"},
    "gamegen.footage": MEDIA | {"gamegen.unix_sockets"},
    "gamegen.replay": ENGINE | {"gamegen.footage"},
    "gamegen.curation": MODELS | {"gamegen.footage"},
    "gamegen.training": MODELS
    | {"gamegen.pages", "gamegen.engine", "gamegen.curation", "gamegen.footage", "gamegen.storage"},
    "gamegen.evaluation": ENGINE
    | {"gamegen.pages", "gamegen.curation", "gamegen.footage", "gamegen.pipeline", "gamegen.training"},
    "gamegen.bench": ENGINE | {"gamegen.generation", "gamegen.pipeline", "gamegen.training"},
    "gamegen.storage": {"gamegen.files", "gamegen.folders"},
    "gamegen.provenance": {"gamegen", "gamegen.files", "gamegen.folders"},
    "gamegen.registry": MODELS | {"gamegen.evaluation", "gamegen.storage"},
    # What the clip service keeps and promises, without a server.
    "gamegen.service.videos_command": set(),
    "gamegen.service.storage_command": {
        "gamegen.service.database",
        "gamegen.service.webhooks",
        "gamegen.storage",
    },
    "gamegen.service.database": {"gamegen.folders", "gamegen.unix_sockets"},
    "gamegen.service.orders": BASE
    | {"gamegen.generation", "gamegen.media", "gamegen.service.database", "gamegen.service.safety"},
    "gamegen.service.webhooks": {"gamegen.service.database", "gamegen.service.orders", "gamegen.storage"},
    "gamegen.service.retention": {"gamegen.service.database", "gamegen.service.orders", "gamegen.storage"},
    "gamegen.service.backup": BASE
    | {"gamegen.service.database", "gamegen.service.orders", "gamegen.storage"},
    "gamegen.service.safety": BASE | {"gamegen.media"},
    # Ray jobs: one module each.
    "jobs": {"jobs", *LIBRARY, *(f"gamegen.{r}" for r in ("curation", "evaluation", "footage", "training"))},
    # The Ray Serve application, by process.
    "deployments.background": set(),
    "deployments.environment": {"gamegen.process", "gamegen.telemetry"},
    "deployments.listen_address": set(),
    "deployments.start_steps": set(),
    "deployments.stores": set(),
    "deployments.embedded_store": {"gamegen.unix_sockets"},
    "deployments.autoscaling": set(),
    "deployments.limits": set(),
    "deployments.request_schemas": {"deployments.limits"},
    "deployments.prompts": {"deployments.clients", "deployments.errors", "deployments.replicas"},
    "deployments.settings": LIBRARY | {"deployments.limits", "deployments.videos", "deployments.workers"},
    "deployments.sessions": LIBRARY,
    "deployments.errors": {"deployments.observability"},
    "deployments.rate_limit": {"deployments.errors", "deployments.settings", "gamegen.sessions"},
    "deployments.observability": LIBRARY | {"deployments.errors", "deployments.sessions"},
    "deployments.replicas": LIBRARY
    | REPLICA
    | {"deployments.clients", "deployments.settings", "deployments.workers"},
    "deployments.clients": LIBRARY | REPLICA | {"deployments.replicas"},
    "deployments.workers": LIBRARY | REPLICA | {"deployments.replicas"},
    "deployments.stream": LIBRARY | INGRESS,
    "deployments.videos": LIBRARY | INGRESS | {"deployments.stores", "deployments.workers"},
    "deployments.ingress": LIBRARY
    | INGRESS
    | {"deployments.stores", "deployments.stream", "deployments.videos"},
    "deployments.app": LIBRARY
    | {f"deployments.{room}" for room in ("ingress", "replicas", "sessions", "settings", "stores")},
    "deployments.local_server": APPLICATION
    | {
        "gamegen.process",
        "gamegen.telemetry",
        "deployments.observability",
        "deployments.listen_address",
        "deployments.start_steps",
    },
    "deployments.play": LIBRARY
    | APPLICATION
    | {f"deployments.{name}" for name in ("listen_address", "local_server", "start_steps")},
    # Programs that use a running application, or break it.
    "loadtest": LIBRARY | {"loadtest", "gamegen.bench", "deployments.settings", "deployments.stream"},
    "cluster": LIBRARY | APPLICATION | {"cluster", "loadtest"},
}
"""For each room, the rooms that it may import besides itself; `gamegen.cli` may import all of the library, and runs
programs of other packages by their names in its tables."""
NOT_IN_LIBRARY = {"ray", "fastapi", "uvicorn"}


def imported_modules(file: Path) -> set[str]:
    """Absolute names of everything that a file imports anywhere."""
    package = file.relative_to(REPOSITORY).with_suffix("").parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module or "")))
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def files_of(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


def room_of(name: str) -> str:
    """The room of a module or of what is imported from it: `gamegen.models`, `gamegen.service.orders`, `jobs`."""
    parts = name.split(".")
    if parts[0] in ("jobs", "loadtest", "cluster"):
        return parts[0]
    depth = 3 if parts[:2] == ["gamegen", "service"] else 2
    if parts[0] == "gamegen" and len(parts) == 2 and not parts[1].islower():
        return "gamegen"
    return ".".join(parts[:depth])


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_import_what_the_table_allows(package: str) -> None:
    wrong = []
    for file in files_of(package):
        room = room_of(".".join(file.relative_to(REPOSITORY).with_suffix("").parts))
        if file.name == "__init__.py" or room == "gamegen.cli":
            continue
        assert room in MAY_IMPORT, f"{room} is a new room: say in MAY_IMPORT what it may import"
        rooms = {room_of(n) for n in imported_modules(file) if n.split(".")[0] in PACKAGES}
        if outer := rooms - MAY_IMPORT[room] - {room, "gamegen.__version__"}:
            wrong.append(f"{file.relative_to(REPOSITORY)} must not import {', '.join(sorted(outer))}")
    assert not wrong, "\n".join(wrong)


def test_the_library_knows_neither_ray_nor_a_web_server() -> None:
    for file in files_of("gamegen"):
        found = {name for name in imported_modules(file) if name.split(".")[0] in NOT_IN_LIBRARY}
        assert not found, f"{file} is library code: it must not import {sorted(found)}"


def test_one_way_opens_a_store_and_it_seals_where_there_is_a_key() -> None:
    for package in PACKAGES:
        for file in files_of(package):
            if "open_plain_store" in file.read_text(encoding="utf-8"):
                assert file.parent.name == "storage", (
                    f"{file}: open stores by gamegen.storage.encryption.open_store"
                )


def test_the_command_line_runs_programs_that_exist_and_knows_nothing_else_of_their_packages() -> None:
    file = REPOSITORY / "gamegen" / "cli.py"
    programs = {program.module for program in cli.PROGRAMS.values()} | {
        cli.SERVER,
        cli.EVALUATION,
        cli.EVALUATION_JOB,
    }
    for module in programs:
        path = REPOSITORY / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), (
            f"{module} is no program"
        )
    tree = ast.parse(file.read_text(), str(file))
    texts = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    outer = tuple(f"{package}." for package in PACKAGES if package != "gamegen")
    assert {text for text in texts if text.startswith(outer)} <= programs
    assert not {name for name in imported_modules(file) if name.startswith(outer)}


def test_every_way_to_import_is_seen(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tests.test_layering.REPOSITORY", tmp_path)
    (tmp_path / "gamegen" / "models").mkdir(parents=True)
    file = tmp_path / "gamegen" / "models" / "vae.py"
    file.write_text("from .. import world\nfrom .text import a\ndef f():\n    import ray.data as d\n")
    assert imported_modules(file) == {"gamegen.world", "gamegen.models.text.a", "ray.data"}

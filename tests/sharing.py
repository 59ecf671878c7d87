"""The order of the tests, and how several processes share them: `pytest -n 2`.

Tests that need a Ray belong to a group, of which one process runs all: "jobs" without an application on it, the others
with one each, so that each is started once. A process keeps its Ray from group to group. So do those of what people
install, which is built and used once: "packaging". The groups come first, and file after file follows.
"""

from __future__ import annotations

import json
import os
import tempfile
from functools import cached_property
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

_OWN_APPLICATION = {"tests/e2e/": "page", "tests/survival/": "survival"}
"""Folders whose tests are served another application than the others, and their groups."""
_GROUPS = ("page", "jobs", "serve", "survival", "packaging")
"""The groups in their order: of two processes one begins with the page, the other with jobs."""
_LONGEST = (
    "tests/training/test_parallel.py",
    "tests/engine/test_steady_state.py",
    "tests/deployments/test_start.py",
    "tests/evaluation/test_suite.py",
    "tests/footage/test_real_games.py",
)
"""The files without a group that take longest: begun last they would keep one process busy beside idle ones."""


def group_of(item: pytest.Item) -> str:
    """The group of a test, "" for none."""
    fixtures = getattr(item, "fixturenames", ())
    if "serve_address" in fixtures:
        own = [group for folder, group in _OWN_APPLICATION.items() if item.nodeid.startswith(folder)]
        return own[0] if own else "serve"
    if "ray_cluster" in fixtures:
        return "jobs"
    return "packaging" if "distribution" in fixtures else ""


def rank_of(item: pytest.Item) -> tuple[int, int]:
    """The place of a test in the order, smallest first."""
    file, group = _file(item.nodeid), group_of(item)
    if group:
        return 0, _GROUPS.index(group)
    return 1, _LONGEST.index(file) if file in _LONGEST else len(_LONGEST)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sorts the tests, and tells the process that shares them out which group each belongs to."""
    items.sort(key=rank_of)
    # That process collects no tests itself, and learns their names only.
    worker = getattr(config, "workerinput", {})
    if worker.get("workerid") == "gw0":
        groups = {item.nodeid: group for item in items if (group := group_of(item))}
        Path(worker["groups_file"]).write_text(json.dumps(groups), encoding="utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    """Tells a process where to leave the groups."""
    node.workerinput["groups_file"] = str(_groups_file())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupsThenFiles:
    """The scheduler of `pytest -n 2`, which keeps the order of the tests."""
    config.option.loadscopereorder = False
    return GroupsThenFiles(config, log)


class GroupsThenFiles(LoadScopeScheduling):
    """Gives a process a whole group, or a file of the tests without one."""

    @cached_property
    def _groups(self) -> dict[str, str]:
        file = _groups_file()
        groups = json.loads(file.read_text())
        file.unlink()
        return groups

    def _split_scope(self, nodeid: str) -> str:
        return self._groups.get(nodeid) or _file(nodeid)


def _groups_file() -> Path:
    return Path(tempfile.gettempdir()) / f"gamegen-test-groups-{os.getpid()}.json"


def _file(nodeid: str) -> str:
    return nodeid.split("::")[0]

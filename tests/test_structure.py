"""Structural limits: lengths of files, import circles, class names that mean one thing, the walks of the manual."""

from __future__ import annotations

import ast
import html
import re
import subprocess
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.test_layering import PACKAGES, REPOSITORY, files_of, imported_modules

MAX_LINES = 400
MAX_WALK_FILES = 25
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"

SHARED_CLASS_NAMES: dict[str, str] = {}
"""Class names that two modules may define, each with its reason; at most ten."""


def module_name(file: Path) -> str:
    parts = file.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_file_is_longer_than_the_limit() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "*.py", "*.js", "*.lua", "*.sql", "*.css", "*.c", "*.sh"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    lengths = {name: len((REPOSITORY / name).read_text().splitlines()) for name in tracked}
    assert len(lengths) > 300
    too_long = {name: length for name, length in lengths.items() if length > MAX_LINES}
    assert not too_long, f"longer than {MAX_LINES} lines, split them: {too_long}"


def test_modules_import_each_other_one_way() -> None:
    modules = {module_name(file): file for package in PACKAGES for file in files_of(package)}
    graph = {}
    for name, file in modules.items():
        imported = set()
        for target in imported_modules(file):
            while target and target not in modules:
                target = target.rpartition(".")[0]
            imported.add(target)
        graph[name] = imported - {"", name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError("these modules import each other: " + " <- ".join(error.args[1])) from error


def test_a_class_name_means_one_thing() -> None:
    places = defaultdict(set)
    for package in ("gamegen", "deployments"):
        for file in files_of(package):
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.ClassDef):
                    places[node.name.lstrip("_")].add(module_name(file))
    shared = {name: sorted(modules) for name, modules in places.items() if len(modules) > 1}
    assert len(SHARED_CLASS_NAMES) <= 10
    unexplained = {name: modules for name, modules in shared.items() if name not in SHARED_CLASS_NAMES}
    assert not unexplained, f"one name, several meanings; rename: {unexplained}"
    assert set(SHARED_CLASS_NAMES) <= set(shared), "names that are no longer shared need no reason"


def walks() -> dict[str, list[str]]:
    """Files named in each walk of the manual: its third-level headings that begin with `Walk`."""
    text = ARCHITECTURE.read_text()
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    return {
        section.splitlines()[0]: re.findall(r"`([\w./-]+\.(?:py|js|lua|sql|yaml))`", section)
        for section in sections
        if section.startswith("Walk ")
    }


def test_the_walks_name_files_that_exist_and_few_of_them() -> None:
    found = walks()
    assert len(found) == 3, f"the manual has three walks, not {list(found)}"
    for title, names in found.items():
        gone = [name for name in names if not (REPOSITORY / name).is_file()]
        assert not gone, f"{title}: these files are gone: {gone}"
        assert 5 <= len(set(names)) <= MAX_WALK_FILES, f"{title} names {len(set(names))} files"


def test_every_file_named_in_the_manual_exists() -> None:
    named = re.findall(
        r"`((?:gamegen|jobs|deployments|loadtest|cluster|configs|tests|docs)/[\w./-]*)`",
        ARCHITECTURE.read_text(),
    )
    gone = [name for name in named if not (REPOSITORY / name).exists()]
    assert len(named) > 30 and not gone, f"docs/architecture.md names what is gone: {gone}"


def test_the_picture_shows_what_its_source_names() -> None:
    source, picture = (ARCHITECTURE.with_suffix(suffix).read_text() for suffix in (".dot", ".svg"))
    labels = [line for label in re.findall(r'label="([^"]+)"', source) for line in label.split(r"\n")]
    assert len(labels) > 30
    shown = html.unescape(re.sub(r"<[^>]+>", "", picture)).replace("\N{NO-BREAK SPACE}", " ")
    missing = [label for label in labels if label not in shown]
    assert not missing, f"run make docs/architecture.svg: the picture lacks {missing}"

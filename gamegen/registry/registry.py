"""The model registry: versions of checkpoints in an object store, and the current one of each model.

    models/NAME/VERSION/reserved.json     written first, so that two adds at once get two numbers
    models/NAME/VERSION/...               the files of the checkpoint and, if there is one, report.json
    models/NAME/VERSION/manifest.json     written last: without it the version is not there
    models/NAME/history/NUMBER.json       one object for each promotion and rollback; the last names the current version

Nothing is ever changed in place, so the version that was current at any time is known and can be brought back.
"""

from __future__ import annotations

import datetime
import json
import re
import secrets
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gamegen.config import build, to_dict
from gamegen.evaluation.comparison import Comparison, compare
from gamegen.evaluation.evaluation_report import REPORT_FILE, EvaluationReport, read_report
from gamegen.models.checkpoint import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, read_card, resolve, verify
from gamegen.storage.objects import ObjectExistsError, ObjectNotFoundError, ObjectStore

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FILES = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE)


class RegistryError(ValueError):
    """A refused operation of the registry; the message names the reason and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """One stored checkpoint: `sha256` of its weights, `figures` of its report (empty without one)."""

    name: str
    number: int
    added_at: str
    size_bytes: int
    sha256: str
    stages: tuple[str, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RegistryChange:
    """One entry of a model's history: `version` became current, being better on the figures `better`."""

    number: int
    action: Literal["promote", "rollback"]
    version: int
    at: str
    better: tuple[str, ...] = ()


class Registry:
    """Models of one object store."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def names(self) -> list[str]:
        """Names of all models that have a version."""
        return sorted(
            {key.split("/")[1] for key in self.store.keys("models/") if key.endswith("/manifest.json")}
        )

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, oldest first; raises RegistryError if it has none."""
        manifests = [
            key for key in self.store.keys(f"models/{_check(name)}/") if key.endswith("/manifest.json")
        ]
        if not manifests:
            known = ", ".join(self.names()) or "none"
            raise RegistryError(f"no model {name!r} in {self.store}; there are: {known}")
        return sorted((self._read(Version, key) for key in manifests), key=lambda version: version.number)

    def version(self, name: str, number: int | None = None) -> Version:
        """One version, the current one if no number is given."""
        versions = self.versions(name)
        if number is None:
            history = self.history(name)
            if not history:
                raise RegistryError(f"no version of {name!r} is current: promote one, or name a version")
            number = history[-1].version
        for version in versions:
            if version.number == number:
                return version
        known = ", ".join(str(v.number) for v in versions)
        raise RegistryError(f"{name!r} has no version {number}; there are: {known}")

    def history(self, name: str) -> list[RegistryChange]:
        """Promotions and rollbacks, oldest first."""
        return [self._read(RegistryChange, key) for key in self.store.keys(f"models/{_check(name)}/history/")]

    def add(self, name: str, folder: Path, report: Path | None = None) -> Version:
        """Stores a checkpoint folder as the next version of a model.

        Raises CheckpointError for a damaged checkpoint and RegistryError for a report of another one.
        """
        _check(name)
        folder = resolve(folder)
        card = read_card(folder)
        verify(folder, card)
        sha256 = card["sha256"][WEIGHTS_FILE]
        evaluation = read_report(report) if report else None
        if evaluation and evaluation.weights_sha256 != sha256:
            raise RegistryError(
                f"{report} is of other weights ({evaluation.weights_sha256[:12]}...) than {folder} "
                f"({sha256[:12]}...): evaluate this checkpoint"
            )
        number = self._reserve(name)
        base = f"models/{name}/{number:06d}"
        for file in _FILES:
            self.store.upload(f"{base}/{file}", folder / file)
        if report:
            self.store.upload(f"{base}/{REPORT_FILE}", report)
        figures = evaluation.figures if evaluation else {}
        version = Version(
            name=name,
            number=number,
            added_at=_now(),
            size_bytes=sum((folder / file).stat().st_size for file in _FILES),
            sha256=sha256,
            stages=_stages(card),
            figures={name: figure.value for name, figure in figures.items()},
        )
        self._create(f"{base}/manifest.json", version)
        return version

    def promote(self, name: str, number: int) -> Comparison:
        """Makes a version current if its report beats the current one's; returns the comparison.

        Raises RegistryError if there is no report, it measured different worlds, or it does not beat the current one.
        """
        candidate = self.report(self.version(name, number))
        history = self.history(name)
        if history and history[-1].version == number:
            raise RegistryError(f"{name} version {number} is already current")
        current = self.report(self.version(name)) if history else None
        try:
            comparison = compare(candidate.figures, current.figures if current else {})
        except ValueError as error:
            raise RegistryError(
                f"version {number} cannot be compared with the current one: {error}"
            ) from error
        if not comparison.beats:
            reasons = "; ".join(comparison.worse) or "better on no figure"
            raise RegistryError(f"version {number} does not beat the current one of {name}: {reasons}")
        self._record(name, history, "promote", number, comparison.better)
        return comparison

    def rollback(self, name: str) -> int:
        """Makes the version current that was current before; returns its number. It needs no report."""
        self.versions(name)
        history = self.history(name)
        past: list[int] = []
        for change in history:
            past = [*past, change.version] if change.action == "promote" else past[:-1]
        if len(past) < 2:
            raise RegistryError(f"{name} has no earlier promoted version to go back to")
        self._record(name, history, "rollback", past[-2], ())
        return past[-2]

    def fetch(self, name: str, number: int | None, target: Path) -> Version:
        """Writes a version (the current one by default) as a checkpoint folder, with its SHA-256 sums verified."""
        version = self.version(name, number)
        if target.exists():
            raise RegistryError(f"{target} already exists: give a folder that does not exist yet")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        partial.mkdir()
        try:
            for file in _FILES:
                self.store.download(f"models/{name}/{version.number:06d}/{file}", partial / file)
            verify(partial, read_card(partial))
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return version

    def report(self, version: Version) -> EvaluationReport:
        """The evaluation that a version was added with; raises RegistryError if there is none."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / REPORT_FILE
                self.store.download(f"models/{version.name}/{version.number:06d}/{REPORT_FILE}", file)
                return read_report(file)
        except ObjectNotFoundError as error:
            raise RegistryError(
                f"{version.name} version {version.number} has no evaluation report: evaluate the checkpoint, "
                "then add it again with --report"
            ) from error

    def _reserve(self, name: str) -> int:
        taken = [
            int(key.split("/")[2])
            for key in self.store.keys(f"models/{name}/")
            if key.endswith("/reserved.json")
        ]
        number = max(taken, default=0) + 1
        while True:
            try:
                self.store.write(f"models/{name}/{number:06d}/reserved.json", b"{}", create=True)
                return number
            except ObjectExistsError:
                number += 1

    def _record(
        self,
        name: str,
        history: list[RegistryChange],
        action: Literal["promote", "rollback"],
        version: int,
        better: tuple[str, ...],
    ) -> None:
        change = RegistryChange(
            number=len(history) + 1, action=action, version=version, at=_now(), better=better
        )
        try:
            self._create(f"models/{name}/history/{change.number:06d}.json", change)
        except ObjectExistsError as error:
            raise RegistryError(
                f"the current version of {name} was changed at the same time: look at it, then try again"
            ) from error

    def _create(self, key: str, entry: Version | RegistryChange) -> None:
        self.store.write(key, json.dumps(to_dict(entry), indent=2).encode(), create=True)

    def _read(self, cls: type[Any], key: str) -> Any:
        return build(cls, json.loads(self.store.read(key)), f"{key} in {self.store}")


def _check(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise RegistryError(f"{name!r} is not a valid model name: use up to 64 of a-z, 0-9, dot, _ and -")
    return name


def _stages(card: dict[str, Any]) -> tuple[str, ...]:
    named = [stage["stage"] for stage in card.get("stages", ()) if "stage" in stage]
    return tuple(named or ([card["stage"]] if "stage" in card else []))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

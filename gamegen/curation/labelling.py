"""Labelling of folders of videos and of clip tables: written as it goes, resumed when run again.

Files that cannot be read are put aside with the reason.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gamegen.curation.labels import Scenery, clip_id_of, find_videos, label_video, labelled
from gamegen.curation.shards import RejectedClip, read_rejected, write_rejected
from gamegen.files import file_sha256
from gamegen.footage.clips import REJECTED_FILE, Clip, labels_of, read_table, write_table
from gamegen.models.inverse_dynamics import InverseDynamics

Progress = Callable[[Sequence[Any]], Iterable[Any]]
"""Goes through a sequence and shows how much of it is done."""
_SHARE_AT_RISK = 0.02
"""Largest share of the labels that a killed process loses. Writing a large table after every clip would take long."""


@dataclasses.dataclass(frozen=True)
class LabelReport:
    """The clips of the table that was written, and those that were put aside, listed in `rejected_file`."""

    clips: list[Clip]
    rejected: list[RejectedClip]
    rejected_file: Path


def label_videos(
    source: Path, table: Path, scenery: Scenery, model: InverseDynamics, progress: Progress = iter
) -> LabelReport:
    """Writes the clip table `table` of the videos at `source`.

    Videos that this model labelled before, with the same scenery, are not labelled again, nor are those tried again
    that could not be read. Raises FileNotFoundError if there is no video, and ValueError if none can be read.
    """
    videos = {os.path.relpath(video, table.parent): video for video in find_videos(source)}
    labelled_by = _fingerprint(model, scenery)
    before = read_table(table) if labels_of(table) == labelled_by else []
    with _open(table, labelled_by, {clip.path: clip for clip in before}) as run:
        for path in progress(list(videos)):
            digest = ""
            try:
                digest = file_sha256(videos[path])
                if run.has(path, digest):
                    continue
                clip = label_video(videos[path], digest, table, scenery, model)
            except (OSError, ValueError) as error:
                run.rows.pop(path, None)
                clip_id = clip_id_of(videos[path], digest, scenery)
                run.put_aside(RejectedClip(clip_id, digest, path, "broken", str(error)))
            else:
                run.put(path, clip)
        run.rows = {path: clip for path, clip in run.rows.items() if path in videos}
        return run.report(list(videos))


def fill_in(source: Path, table: Path, model: InverseDynamics, progress: Progress = iter) -> LabelReport:
    """Writes the clips of the table `source` as `table`, which may be the same: those without keys are labelled.

    The others stay as they are, and so do those that cannot be read. Raises FileNotFoundError if there is no table.
    """
    videos: dict[str, Path] = {}
    clips = []
    for clip in read_table(source):
        video = source.parent / clip.path
        clips.append(dataclasses.replace(clip, path=os.path.relpath(video, table.parent)))
        videos[clips[-1].path] = video
    is_same = table.resolve() == source.resolve()
    labelled_by = labels_of(source) if is_same else _fingerprint(model, None)
    before = [] if is_same or labels_of(table) != labelled_by else read_table(table)
    done = {clip.path: clip for clip in before if clip.keys}
    with _open(table, labelled_by, {clip.path: clip for clip in clips}) as run:
        for clip in clips:
            if not clip.keys and clip.path in done and done[clip.path].sha256 == clip.sha256:
                run.rows[clip.path] = done[clip.path]
        for clip in progress(clips):
            if run.has(clip.path, clip.sha256, needs_keys=True):
                continue
            try:
                filled = labelled(clip, videos[clip.path], model)
            except (OSError, ValueError) as error:
                # A file that is missing now may be there at the next run.
                digest = clip.sha256 if videos[clip.path].is_file() else ""
                run.put_aside(RejectedClip(clip.clip_id, digest, clip.path, "broken", str(error)))
            else:
                run.put(clip.path, filled)
        return run.report([clip.path for clip in clips])


@dataclasses.dataclass
class _LabelRun:
    """The table as it is so far, and the rejected clips beside it, both by path."""

    table: Path
    labelled_by: str | None
    rows: dict[str, Clip]
    rejected: dict[str, RejectedClip]
    num_unwritten: int = 0

    def has(self, path: str, digest: str, needs_keys: bool = False) -> bool:
        """True for a file of this SHA-256 that was labelled or put aside."""
        row, reject = self.rows.get(path), self.rejected.get(path)
        if row is not None and row.sha256 == digest and (row.keys or not needs_keys):
            return True
        return reject is not None and bool(digest) and reject.source_sha256 == digest

    def put(self, path: str, clip: Clip) -> None:
        self.rows[path] = clip
        if self.rejected.pop(path, None) is not None:
            self._write_rejected()
        self.num_unwritten += 1
        if self.num_unwritten > _SHARE_AT_RISK * len(self.rows):
            self.write()

    def put_aside(self, clip: RejectedClip) -> None:
        self.rejected[clip.path] = clip
        self._write_rejected()

    def write(self) -> None:
        write_table(list(self.rows.values()), self.table, self.labelled_by)
        self.num_unwritten = 0

    def report(self, paths: list[str]) -> LabelReport:
        """Writes the table and returns the report on some files; raises ValueError if none could be read."""
        rejected = [self.rejected[path] for path in paths if path in self.rejected]
        if not self.rows:
            raise ValueError(
                f"none of {len(paths)} videos can be read; {rejected[0].path}: {rejected[0].detail}"
            )
        self.write()
        return LabelReport(list(self.rows.values()), rejected, self.table.parent / REJECTED_FILE)

    def _write_rejected(self) -> None:
        write_rejected(self.table.parent, self.rejected.values())


@contextmanager
def _open(table: Path, labelled_by: str | None, rows: dict[str, Clip]) -> Iterator[_LabelRun]:
    """A run whose labels are written too if it is interrupted."""
    rejected = {clip.path: clip for clip in read_rejected(table.parent)}
    run = _LabelRun(table, labelled_by, rows, rejected)
    try:
        yield run
    finally:
        if run.num_unwritten:
            run.write()


def _fingerprint(model: InverseDynamics, scenery: Scenery | None) -> str:
    """SHA-256 of all that labels depend on besides the videos."""
    digest = hashlib.sha256(repr((model.config, scenery)).encode())
    for name, values in sorted(model.state_dict().items()):
        digest.update(name.encode() + values.cpu().numpy().tobytes())
    return digest.hexdigest()

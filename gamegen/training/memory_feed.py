"""A window source that keeps all clips in memory and cuts windows in many threads, for a fast device."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gamegen.curation.row_groups import read_rows_of
from gamegen.training.feed import WindowDataset, WindowSource, interleaved_pools
from gamegen.training.window_plan import BucketPlan, ClipRow, Sample

_AT_ONCE = 64
"""Windows that are cut before the first of them is needed."""


def windows_in_memory(dataset: WindowDataset) -> WindowSource:
    """Windows as `gamegen.training.feed.local_windows` gives them; each clip is read and prepared once.

    `dataset.prepare` and `dataset.cut` run in one thread a core.
    """
    clips: dict[ClipRow, Any] = {}
    num_threads = os.cpu_count() or 1

    def prepare(place: tuple[str, int], rows: list[ClipRow]) -> None:
        found = read_rows_of(*place, [clip.row for clip in rows])
        clips.update({clip: dataset.prepare(row) for clip, row in zip(rows, found, strict=True)})

    def prepare_missing(pool: list[Sample], threads: ThreadPoolExecutor) -> None:
        missing: dict[tuple[str, int], list[ClipRow]] = defaultdict(list)
        for clip in dict.fromkeys(sample.clip for sample in pool):
            if clip not in clips:
                missing[clip.file, clip.group].append(clip)
        list(threads.map(prepare, missing, missing.values()))

    def windows(plan: BucketPlan, streams: list[int], position: int) -> Iterator[tuple[int, Any]]:
        length = plan.bucket.num_latents
        cut = lambda sample: dataset.cut(clips[sample.clip], sample, length)  # noqa: E731
        with ThreadPoolExecutor(num_threads, "windows") as threads:
            for stream, pool in interleaved_pools({i: plan.streams[i] for i in streams}, position):
                prepare_missing(pool, threads)
                for first in range(0, len(pool), _AT_ONCE):
                    for window in threads.map(cut, pool[first : first + _AT_ONCE]):
                        yield stream, window

    return windows

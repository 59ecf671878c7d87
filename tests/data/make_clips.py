"""Makes the small real clips that come with the package, out of recorded footage.

    python -m tests.data.make_clips footage

Each wanted scene takes the first window that fits it, from a world that has given the fewest so far.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from gamegen.evaluation.real_clips import SHIPPED_CLIPS
from gamegen.footage.clips import Clip, read_table, write_table
from gamegen.footage.excerpts import cut_excerpt

OUTPUT = SHIPPED_CLIPS
NUM_FRAMES = 72
STEP = 6
MAX_TOTAL_BYTES = 900 * 1024

Fits = Callable[[Clip, slice], bool]


def _share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)


def _only(clip: Clip, window: slice, **truth: str) -> bool:
    return all(set(getattr(clip, name)[window]) == {value} for name, value in truth.items())


def walks(clip: Clip, window: slice) -> bool:
    """Forward most of the time, hardly turning, and getting somewhere."""
    (x0, _, z0), (x1, _, z1) = clip.position[window][0], clip.position[window][-1]
    forward = _share(["w" in keys and not yaw for keys, yaw in _played(clip, window)])
    return forward > 0.8 and abs(x1 - x0) + abs(z1 - z0) > 5


def _played(clip: Clip, window: slice) -> list[tuple[list[str], float]]:
    return list(zip(clip.keys[window], clip.yaw_deg[window], strict=True))


def turns(clip: Clip, window: slice, side: int) -> bool:
    """To one side most of the time and never to the other."""
    yaws = clip.yaw_deg[window]
    return _share([yaw * side > 0 for yaw in yaws]) > 0.55 and not any(yaw * side < 0 for yaw in yaws)


def stands(clip: Clip, window: slice) -> bool:
    """Half of the time without any operation."""
    return _share([not keys and not yaw for keys, yaw in _played(clip, window)]) > 0.5


def falls_night(clip: Clip, window: slice) -> bool:
    """Day in the first third, night in the last."""
    times = clip.time_of_day[window]
    return times[NUM_FRAMES // 3] == "day" and times[2 * NUM_FRAMES // 3] == "night"


WANTED: dict[str, Fits] = {
    "forward": lambda c, w: walks(c, w) and _only(c, w, view="first", time_of_day="day", weather="clear"),
    "left": lambda c, w: turns(c, w, -1) and _only(c, w, view="first", time_of_day="day", weather="clear"),
    "right": lambda c, w: turns(c, w, 1) and _only(c, w, view="first", time_of_day="day"),
    "still": lambda c, w: stands(c, w) and _only(c, w, view="first", time_of_day="day"),
    "night": lambda c, w: walks(c, w) and _only(c, w, time_of_day="night", weather="clear"),
    "third": lambda c, w: walks(c, w) and _only(c, w, view="third", time_of_day="day", weather="clear"),
    "third-turn": lambda c, w: turns(c, w, 1) and _only(c, w, view="third", time_of_day="day"),
    "nightfall": lambda c, w: falls_night(c, w) and len(set(c.view[w])) == 1,
}
"""Name of each test clip and what its window must show."""


def find_window(clips: list[Clip], fits: Fits) -> tuple[Clip, int] | None:
    """The first clip and start frame whose window fits and which no change precedes."""
    for clip in clips:
        changes = [change.frame for change in clip.instructions] or [clip.num_frames]
        last = min(changes[0], clip.num_frames - NUM_FRAMES)
        for start in range(0, last + 1, STEP):
            if fits(clip, slice(start, start + NUM_FRAMES)):
                return clip, start
    return None


def make_clips(footage: Path, output: Path = OUTPUT) -> list[Clip]:
    """Cuts every wanted clip and writes their table. Raises LookupError if the footage lacks one."""
    clips, used, taken = read_table(footage), Counter[int](), set[str]()
    excerpts = []
    for name, fits in WANTED.items():
        unused = [clip for clip in clips if clip.clip_id not in taken]
        found = find_window(sorted(unused, key=lambda clip: used[clip.world_seed]), fits)
        if found is None:
            raise LookupError(f"no clip of {footage} has a window for {name!r}: record more footage")
        clip, start = found
        used[clip.world_seed] += 1
        taken.add(clip.clip_id)
        excerpts.append(cut_excerpt(clip, footage, output, start, NUM_FRAMES, name))
    write_table(excerpts, output / "clips.parquet")
    total = sum(path.stat().st_size for path in output.iterdir())
    if total > MAX_TOTAL_BYTES:
        raise ValueError(
            f"the clips take {total} bytes, more than {MAX_TOTAL_BYTES}: want fewer or cut shorter"
        )
    return excerpts


if __name__ == "__main__":
    for made in make_clips(Path(sys.argv[1])):
        print(made.clip_id, made.world_seed, made.biome[0], made.weather[0], made.size_bytes)

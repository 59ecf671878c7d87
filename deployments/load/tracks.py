"""Key tracks: what simulated players do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gamegen.config import load_yaml
from gamegen.controls import FPS, parse_script

TRACKS_FILE = Path(__file__).parent / "tracks.yaml"


@dataclass(frozen=True)
class Change:
    """Keys that go down or up, or words, at a time in seconds from the beginning of the track."""

    at_s: float
    keys: tuple[str, ...] = ()
    is_down: bool = False
    words: str | None = None


@dataclass(frozen=True)
class Track:
    """A way to play: a prompt, a key script as `gamegen rollout` takes it, and words by frame."""

    name: str
    prompt: str
    keys: str
    instructions: dict[int, str]

    def __post_init__(self) -> None:
        late = [frame for frame in self.instructions if not 0 <= frame < len(self.frames)]
        if late:
            raise ValueError(f"{self.name}: the words at frame {late[0]} are outside of the track")

    @cached_property
    def frames(self) -> list[frozenset[str]]:
        """The keys held in each frame."""
        return parse_script(self.keys)

    @property
    def length_s(self) -> float:
        """How long it takes to play once."""
        return len(self.frames) / FPS

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """What is sent, in order, when the track is played round and round."""
        found = []
        for i, held in enumerate(self.frames):
            before, at_s = self.frames[i - 1], i / FPS
            if up := tuple(sorted(before - held)):
                found.append(Change(at_s, up))
            if down := tuple(sorted(held - before)):
                found.append(Change(at_s, down, is_down=True))
            if i in self.instructions:
                found.append(Change(at_s, words=self.instructions[i]))
        return tuple(found)

    def held(self, at_s: float) -> tuple[str, ...]:
        """The keys that are down at a time, in seconds from the beginning."""
        return tuple(sorted(self.frames[int(at_s * FPS) % len(self.frames)]))

    def play_from(self, start_s: float) -> Iterator[Change]:
        """The changes after `start_s`, without an end; times go on counting from the beginning."""
        lap, start_s = divmod(start_s, self.length_s)
        while self.changes:
            for change in self.changes:
                if change.at_s > start_s:
                    at_s = lap * self.length_s + change.at_s
                    yield Change(at_s, change.keys, change.is_down, change.words)
            lap, start_s = lap + 1, -1.0


@dataclass(frozen=True)
class _Tracks:
    tracks: tuple[Track, ...]


def load_tracks(path: Path = TRACKS_FILE) -> tuple[Track, ...]:
    """The tracks of a file; raises ValueError naming what is wrong in it."""
    return load_yaml(_Tracks, path).tracks

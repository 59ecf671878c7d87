"""Key tracks: scripts of keys and instructions that simulated players play."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gamegen.config import load_yaml
from gamegen.constants import FPS
from gamegen.controls import parse_script

TRACKS_FILE = Path(__file__).parent / "key_tracks.yaml"


@dataclass(frozen=True, kw_only=True)
class TrackEvent:
    """Keys that go down or up, or an instruction, at a time in seconds from the beginning of the track."""

    at_s: float
    keys: tuple[str, ...] = ()
    is_down: bool = False
    words: str | None = None


@dataclass(frozen=True, kw_only=True)
class Track:
    """Key track: a prompt, a key script as `gamegen rollout` takes it, and instructions by frame."""

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
        """Seconds that one round of the track takes."""
        return len(self.frames) / FPS

    @cached_property
    def events(self) -> tuple[TrackEvent, ...]:
        """Events of one round of the track in order."""
        found = []
        for i, held in enumerate(self.frames):
            before, at_s = self.frames[i - 1], i / FPS
            if up := tuple(sorted(before - held)):
                found.append(TrackEvent(at_s=at_s, keys=up))
            if down := tuple(sorted(held - before)):
                found.append(TrackEvent(at_s=at_s, keys=down, is_down=True))
            if i in self.instructions:
                found.append(TrackEvent(at_s=at_s, words=self.instructions[i]))
        return tuple(found)

    def held(self, at_s: float) -> tuple[str, ...]:
        """The keys that are down at a time, in seconds from the beginning."""
        return tuple(sorted(self.frames[int(at_s * FPS) % len(self.frames)]))

    def play_from(self, start_s: float) -> Iterator[TrackEvent]:
        """The events after `start_s`, without an end; times go on counting from the beginning."""
        lap, start_s = divmod(start_s, self.length_s)
        while self.events:
            for event in self.events:
                if event.at_s > start_s:
                    at_s = lap * self.length_s + event.at_s
                    yield TrackEvent(at_s=at_s, keys=event.keys, is_down=event.is_down, words=event.words)
            lap, start_s = lap + 1, -1.0


@dataclass(frozen=True)
class _Tracks:
    tracks: tuple[Track, ...]


def load_tracks(path: Path = TRACKS_FILE) -> tuple[Track, ...]:
    """The tracks of a file; raises ValueError naming what is wrong in it."""
    return load_yaml(_Tracks, path).tracks

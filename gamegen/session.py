"""What an engine remembers of a session between two chunks."""

from __future__ import annotations

from dataclasses import dataclass, field

from gamegen.models.text import TextStates
from gamegen.snapshot import SILENCE, PastChunk, Words, WorldSnapshot


@dataclass
class Session:
    """A session in its cache slot; fields as in `WorldSnapshot`.

    Chunks hold the words themselves, so instructions that no remembered chunk was made under are forgotten.
    """

    slot: int
    seed: int
    prompt: TextStates
    version: int = 0
    chunks: list[PastChunk] = field(default_factory=list)
    anchors: list[PastChunk] = field(default_factory=list)
    ahead: list[Words] = field(default_factory=lambda: [SILENCE])

    @property
    def words(self) -> Words:
        """Words of the next chunk."""
        return self.ahead[0]

    def remember(self, chunk: PastChunk, keep: int, anchors: int) -> None:
        """Appends a finished chunk and forgets those that no cache entry depends on any more."""
        if len(self.anchors) < anchors:
            self.anchors.append(chunk)
        self.chunks.append(chunk)
        self.version += 1
        del self.chunks[:-keep]

    def snapshot(self) -> WorldSnapshot:
        """The session as it is now."""
        return WorldSnapshot(
            self.seed, self.version, self.prompt, [*self.chunks], [*self.anchors], [*self.ahead]
        )

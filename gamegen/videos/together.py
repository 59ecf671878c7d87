"""What is said at the same time of several orders travels together: most of what it costs is the way and the disk."""

from __future__ import annotations

from collections.abc import AsyncIterator

from gamegen.database.patience import PatientDatabase
from gamegen.grouping import GroupedCalls
from gamegen.videos import ending, leases
from gamegen.videos.leases import Audited, Entered, Entry
from gamegen.videos.records import Completion

_MOST = 64
"""Orders of which the same is said in one statement."""


class Together:
    """The ways of one queue. While a call is under way, others wait and share the next."""

    def __init__(self, database: PatientDatabase) -> None:
        self._database = database
        self.entries: GroupedCalls[Entry, Entered] = GroupedCalls(self._enter, _MOST, 1)
        self.completions: GroupedCalls[Completion, bool] = GroupedCalls(self._complete, _MOST, 1)
        self.audits: GroupedCalls[Audited, bool] = GroupedCalls(self._audit, _MOST, 1)

    async def _enter(self, entries: list[Entry]) -> AsyncIterator[list[Entered]]:
        yield await self._database.run(leases.advance, entries)

    async def _complete(self, completions: list[Completion]) -> AsyncIterator[list[bool]]:
        yield await self._database.run(ending.complete, completions)

    async def _audit(self, audited: list[Audited]) -> AsyncIterator[list[bool]]:
        await self._database.run(leases.audit, audited)
        yield [True] * len(audited)

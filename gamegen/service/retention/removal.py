"""Removal of objects by a run of the retention, which goes on past those that the store refuses to remove."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gamegen.storage.interface import NotRemovedError, ObjectStore


class ObjectRemover:
    """Removes objects of `store`; counts in `not_removed` those that stay, the first of them for `reason`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.not_removed = 0
        self.reason = ""

    async def remove(self, keys: Sequence[str]) -> frozenset[str]:
        """Removes objects; returns the keys of those that stay. Raises StorageError if the store does not answer."""
        try:
            await asyncio.to_thread(self._store.delete_many, keys)
        except NotRemovedError as error:
            self.not_removed += len(error.keys)
            self.reason = self.reason or str(error)
            return error.keys
        return frozenset()

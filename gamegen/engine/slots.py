"""Session table: each open session has one slot of the KV caches."""

from __future__ import annotations

from collections.abc import Collection

from gamegen.engine.state import Session


class UnknownSessionError(KeyError):
    """The engine holds no session of this id."""


class SlotTable:
    """Open sessions by id, and the free slots; slots are reused in the order in which they were freed."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots))
        self._sessions: dict[str, Session] = {}

    def find(self, session_id: str) -> Session | None:
        """The session, or None if it is not open."""
        return self._sessions.get(session_id)

    def get(self, session_id: str) -> Session:
        """The session; raises UnknownSessionError if it is not open."""
        try:
            return self._sessions[session_id]
        except KeyError:
            raise UnknownSessionError(session_id) from None

    def sessions(self) -> list[Session]:
        """All open sessions."""
        return [*self._sessions.values()]

    def add(self, session_id: str, session: Session) -> None:
        """Puts a session into a free slot; raises RuntimeError if there is none."""
        if not self._free:
            raise RuntimeError(f"all {self.num_slots} session slots are taken: close one or add a replica")
        session.slot = self._free.pop(0)
        self._sessions[session_id] = session

    def remove(self, session_id: str) -> Session | None:
        """Frees the slot of a session and returns the session, or None if it is not open."""
        session = self._sessions.pop(session_id, None)
        if session:
            self._free.append(session.slot)
        return session

    def ids_in(self, slots: Collection[int]) -> list[str]:
        """Ids of the sessions in some slots."""
        return [session_id for session_id, session in self._sessions.items() if session.slot in slots]

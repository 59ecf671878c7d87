"""Connection to Valkey (or Redis), the names of the store's keys, and its Lua scripts."""

from __future__ import annotations

from pathlib import Path

from valkey.asyncio import Valkey
from valkey.commands.core import AsyncScript

PREFIX = "gamegen:"
USER_PREFIX = PREFIX + "user:"
"""Before a user's pseudonym: the set of the user's live sessions."""
SESSIONS = PREFIX + "sessions"
"""Sorted set of all sessions by the time at which they were created."""
LIVE = PREFIX + "live"
PLAYING = PREFIX + "playing"
"""Sorted sets of the sessions that are live, or that play, by the time at which their lease ends."""
QUEUE = PREFIX + "queue"
"""Sorted set of the sessions that wait, by ticket number."""
_SCRIPTS = Path(__file__).parent / "scripts"
_TIMEOUT_S = 2.0


def connect(url: str) -> Valkey:
    """A client of the session store at `url` (redis://, rediss:// or unix://); it connects with its first command."""
    return Valkey.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)


def load_script(valkey: Valkey, *names: str) -> AsyncScript:
    """A script of `scripts/NAME.lua`, which the server runs atomically; files of several names are joined in order."""
    source = "".join((_SCRIPTS / f"{name}.lua").read_text(encoding="utf-8") for name in names)
    return valkey.register_script(source)


def session_keys(session_id: str) -> list[str]:
    """The keys of one session: its hash, its controls, its instructions, and the mark that it was deleted."""
    return [f"{PREFIX}{name}:{session_id}" for name in ("session", "controls", "spoken", "ended")]

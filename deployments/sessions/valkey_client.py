"""Connection to Valkey (or Redis), the names of the store's keys, and its Lua scripts."""

from __future__ import annotations

from pathlib import Path

from valkey import Valkey as BlockingValkey
from valkey.asyncio import Valkey
from valkey.commands.core import AsyncScript
from valkey.exceptions import (
    AuthenticationError,
    ConnectionError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)

PREFIX = "{gamegen}:"
"""Before every key. What is in braces decides in which slot of a cluster a key is: scripts need theirs in one."""
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
_SCHEMES = ("redis://", "rediss://", "valkey://", "valkeys://", "unix://")
_TRIAL = "redis.call('SET', KEYS[1], '1', 'PX', 1000) return redis.call('EXISTS', KEYS[2])"
"""A script that writes, of two keys, as those of the store are."""


def connect(url: str) -> Valkey:
    """A client of the session store at `url` (redis://, rediss:// or unix://); it connects with its first command."""
    return Valkey.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)


def check_store(url: str) -> None:
    """Tries the session store at `url`; raises ValueError, which says what to change, where sessions cannot be kept."""
    if not url.startswith(_SCHEMES):
        raise ValueError(
            "REDIS_URL is not a valid URL: write redis://, rediss:// (TLS) or unix://, then the address"
        )
    keys = [PREFIX + "tried", LIVE]
    try:
        with BlockingValkey.from_url(
            url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        ) as valkey:
            valkey.eval(_TRIAL, len(keys), *keys)
    except ReadOnlyError as error:
        raise ValueError("REDIS_URL is a replica, which takes no writes: name its primary") from error
    except AuthenticationError as error:
        raise ValueError(f"REDIS_URL: the server refuses the password ({error}): correct it") from error
    except (ConnectionError, TimeoutError) as error:
        raise ValueError(f"the session store does not answer: {error}; check REDIS_URL") from error
    except ResponseError as error:
        # Clients that know no clusters get it as a text: MOVED, the slot, and the address.
        if str(error).startswith("MOVED "):
            raise ValueError(
                f"REDIS_URL is a node of a cluster which keeps the sessions at {str(error).split()[-1]}: name that "
                "one, or a server that is no cluster"
            ) from error
        raise ValueError(
            f"the session store refuses ({error}): REDIS_URL has to be a Valkey, or a Redis 6.2 or newer, that runs "
            "scripts and takes writes"
        ) from error


def load_script(valkey: Valkey, *names: str) -> AsyncScript:
    """A script of `scripts/NAME.lua`, which the server runs atomically; files of several names are joined in order."""
    source = "".join((_SCRIPTS / f"{name}.lua").read_text(encoding="utf-8") for name in names)
    return valkey.register_script(source)


def session_keys(session_id: str) -> list[str]:
    """The keys of one session: its hash, its controls, its instructions, and the mark that it was deleted."""
    return [f"{PREFIX}{name}:{session_id}" for name in ("session", "controls", "spoken", "ended")]

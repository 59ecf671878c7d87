"""Migrations of the schema: `upgrade` to the newest revision, `downgrade` to an older one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.errors import LockNotAvailable
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from gamegen.service.database.connection import checked_url, connect_blocking

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x67616D65
"""Advisory lock: of several servers that start at once, one migrates and the others wait."""
_LOCK_TIMEOUT_S = 300.0


def upgrade(url: str, revision: str = "head", lock_timeout_s: float = _LOCK_TIMEOUT_S) -> None:
    """Migrates up to a revision; raises ValueError, or sqlalchemy's OperationalError if nothing answers.

    It is a ValueError too if another program has kept the schema locked for `lock_timeout_s`.
    """
    _run(url, lambda config: command.upgrade(config, revision), lock_timeout_s)


def downgrade(url: str, revision: str) -> None:
    """Migrates down to a revision; `base` is the empty schema."""
    _run(url, lambda config: command.downgrade(config, revision), _LOCK_TIMEOUT_S)


def current(url: str) -> str | None:
    """The revision of a database, or None if it is empty."""
    engine = connect_blocking(url)
    with engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    engine.dispose()
    return revision


def revisions() -> list[str]:
    """All revisions, the oldest first."""
    scripts = ScriptDirectory.from_config(_config("postgresql://"))
    return [script.revision for script in reversed(list(scripts.walk_revisions()))]


def check_newest(url: str) -> str:
    """The newest revision; raises ValueError if the database has another."""
    try:
        found, newest = current(url), revisions()[-1]
    except OperationalError as error:
        raise ValueError(f"the database cannot be reached: {error.orig}; check DATABASE_URL") from error
    if found != newest:
        raise ValueError(
            f"the database has schema {found or 'none'}, this program {newest}: start its server once, which brings it "
            "up to date"
        )
    return newest


def _run(url: str, work: Callable[[Config], None], lock_timeout_s: float) -> None:
    engine = connect_blocking(url)
    try:
        # The lock ends with its transaction: one of a session would stay behind in a pooler's connection for ever.
        with engine.begin() as connection:
            connection.execute(text(f"set local lock_timeout = {round(1000 * lock_timeout_s)}"))
            connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            config = _config(url)
            config.attributes["connection"] = connection
            work(config)
    except OperationalError as error:
        if isinstance(error.orig, LockNotAvailable):
            raise ValueError(
                f"the schema has been locked by another program for {lock_timeout_s:g} s: wait until it has migrated, "
                "or end it"
            ) from error
        raise
    finally:
        engine.dispose()


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["url"] = checked_url(url)
    return config

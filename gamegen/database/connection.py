"""How the database is reached: SQLAlchemy over psycopg, in coroutines."""

from __future__ import annotations

import os

from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

_DIALECT = "postgresql+psycopg"
_CONNECT_TIMEOUT_S = 5
_POOL_TIMEOUT_S = 10


def database_url() -> str | None:
    """`DATABASE_URL`, if it is set."""
    return os.environ.get("DATABASE_URL") or None


def checked_url(url: str) -> str:
    """A URL with the driver that is used; raises ValueError if it is of no PostgreSQL."""
    try:
        parts = make_url(url)
    except ArgumentError as error:
        raise ValueError("DATABASE_URL is no URL: write postgresql://user:password@host:5432/name") from error
    if parts.get_backend_name() not in ("postgresql", "postgres"):
        raise ValueError(
            f"DATABASE_URL is of {parts.get_backend_name()}: only PostgreSQL 15 or newer will do"
        )
    return parts.set(drivername=_DIALECT).render_as_string(hide_password=False)


def connect(url: str, pool_size: int = 8) -> AsyncEngine:
    """Connections for one event loop; raises ValueError. A connection that broke is replaced when next used."""
    return create_async_engine(
        checked_url(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=_POOL_TIMEOUT_S,
        pool_pre_ping=True,
        # Errors are logged; what is written, secrets among it, must not be.
        hide_parameters=True,
        connect_args={"connect_timeout": _CONNECT_TIMEOUT_S},
    )


def connect_blocking(url: str) -> Engine:
    """The same for commands and migrations."""
    return create_engine(
        checked_url(url), pool_pre_ping=True, connect_args={"connect_timeout": _CONNECT_TIMEOUT_S}
    )

"""Connections to the database, by SQLAlchemy over psycopg."""

from __future__ import annotations

import os

from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

_DIALECT = "postgresql+psycopg"
CONNECT: dict[str, int] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
"""Settings of libpq, in seconds but for the last one, in milliseconds.

A server that vanishes without closing the connection is noticed within half a minute, whether or not something was
just sent to it; Linux alone would wait for a quarter of an hour, or for ever.
"""
_CONNECT_TO_POOLER = {**CONNECT, "prepare_threshold": None}
"""A statement prepared on one of a pooler's connections would be missing on the next."""
_POOL_TIMEOUT_S = 10


def database_url() -> str | None:
    """`DATABASE_URL`, if it is set."""
    return os.environ.get("DATABASE_URL") or None


def checked_url(url: str) -> str:
    """A PostgreSQL URL with the driver psycopg; raises ValueError for any other URL."""
    try:
        parts = make_url(url)
    except ArgumentError as error:
        raise ValueError(
            "DATABASE_URL is not a valid URL: write postgresql://user:password@host:5432/name"
        ) from error
    if parts.get_backend_name() not in ("postgresql", "postgres"):
        raise ValueError(f"DATABASE_URL is for {parts.get_backend_name()}: use PostgreSQL 15 or newer")
    return parts.set(drivername=_DIALECT).render_as_string(hide_password=False)


def libpq_url(url: str) -> str:
    """A PostgreSQL URL as psycopg itself takes it; raises ValueError for any other URL."""
    return make_url(checked_url(url)).set(drivername="postgresql").render_as_string(hide_password=False)


def connect(url: str, pool_size: int = 8, *, prepares: bool = True) -> AsyncEngine:
    """A connection pool for one event loop; broken connections are replaced. Raises ValueError for a bad URL.

    Without `prepares` no statement is kept by the server, so that it may be behind a pooler.
    """
    return create_async_engine(
        checked_url(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=_POOL_TIMEOUT_S,
        pool_pre_ping=True,
        # Errors are logged; parameters, which include secrets, must not be.
        hide_parameters=True,
        connect_args=CONNECT if prepares else _CONNECT_TO_POOLER,
    )


def connect_blocking(url: str) -> Engine:
    """A blocking engine for commands and migrations, through a pooler too; raises ValueError for a bad URL."""
    return create_engine(checked_url(url), pool_pre_ping=True, connect_args=_CONNECT_TO_POOLER)

"""Retries of database work while the server is unreachable, which callers see as a delay."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Executable, Row
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    RetryError,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")
_MAX_PAUSE_S = 1.0


class DatabaseAwayError(RuntimeError):
    """The database was unreachable, or all connections busy, for as long as calls are retried."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at some work. If it `is_repeat`, an earlier attempt may have succeeded and its answer been lost."""

    connection: AsyncConnection
    is_repeat: bool

    async def rows(self, statement: Executable, **values: Any) -> Sequence[Row]:
        """Executes a statement; returns its rows."""
        return (await self.connection.execute(statement, values)).all()


class RetryingDatabase:
    """Runs idempotent work on connections of `engine`, retried for `patience_s` while the database is unreachable."""

    def __init__(self, engine: AsyncEngine, patience_s: float) -> None:
        self._patience_s = patience_s
        self._transactions = engine
        # A single statement is a transaction of its own: to begin and commit one would be two more round trips.
        self._statements = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def run(
        self,
        work: Callable[Concatenate[Attempt, _P], Awaitable[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Runs `work` with every statement in a transaction of its own; raises DatabaseAwayError."""
        return await self._retried(self._statements, work, *args, **kwargs)

    async def run_whole(
        self,
        work: Callable[Concatenate[Attempt, _P], Awaitable[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Runs `work` in one transaction; raises DatabaseAwayError."""
        return await self._retried(self._transactions, work, *args, **kwargs)

    async def _retried(
        self,
        engine: AsyncEngine,
        work: Callable[Concatenate[Attempt, _P], Awaitable[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        try:
            async for retrying in self._retrying():
                with retrying:
                    async with engine.begin() as connection:
                        attempt = Attempt(connection, is_repeat=retrying.retry_state.attempt_number > 1)
                        return await work(attempt, *args, **kwargs)
        except PoolTimeoutError as error:
            raise DatabaseAwayError(
                "all connections to the database are busy: retry later, or raise the pool size"
            ) from error
        except RetryError as error:
            raise DatabaseAwayError(
                f"the database has not answered for {self._patience_s:g} s: check that it runs, or raise patience_s"
            ) from error.last_attempt.exception()
        raise AssertionError("the last attempt returns or raises")

    def _retrying(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception(is_transient),
            wait=wait_random_exponential(multiplier=0.05, max=_MAX_PAUSE_S),
            stop=stop_after_delay(self._patience_s),
            before_sleep=_log_first,
        )


def is_transient(error: BaseException) -> bool:
    """True for an error of the connection, the server or a deadlock; False for one of the statement."""
    if isinstance(error, OperationalError | InterfaceError):
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _log_first(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    if state.attempt_number == 1:
        # The driver's message: SQLAlchemy's would show the statement's values.
        lines = str(getattr(error, "orig", error)).splitlines()
        _log.warning("the database does not answer: %s", lines[0] if lines else type(error).__name__)

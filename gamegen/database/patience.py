"""Work on a database that may be away for a while: it is tried again, and callers see a delay."""

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
_LONGEST_PAUSE_S = 1.0


class DatabaseAwayError(RuntimeError):
    """The database does not answer, or is too busy to, and was waited for."""


@dataclass(frozen=True)
class Turn:
    """One try at a piece of work. An earlier one, when this `is_repeat`, may have been carried out all the same."""

    connection: AsyncConnection
    is_repeat: bool

    async def rows(self, statement: Executable, **values: Any) -> Sequence[Row]:
        """What a statement returns."""
        return (await self.connection.execute(statement, values)).all()


class PatientDatabase:
    """Runs work that may be done twice; connections come from `engine`, a database away is waited for `patience_s`."""

    def __init__(self, engine: AsyncEngine, patience_s: float) -> None:
        self._patience_s = patience_s
        self._transactions = engine
        # A single statement is a transaction in itself: to begin and end one would be two more ways there and back.
        self._statements = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def run(
        self,
        work: Callable[Concatenate[Turn, _P], Awaitable[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Runs `work`, whose every statement is carried out by itself; raises DatabaseAwayError."""
        return await self._try(self._statements, work, *args, **kwargs)

    async def run_whole(
        self,
        work: Callable[Concatenate[Turn, _P], Awaitable[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Runs `work` in one transaction; raises DatabaseAwayError."""
        return await self._try(self._transactions, work, *args, **kwargs)

    async def _try(
        self,
        engine: AsyncEngine,
        work: Callable[Concatenate[Turn, _P], Awaitable[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        try:
            async for attempt in self._attempts():
                with attempt:
                    async with engine.begin() as connection:
                        turn = Turn(connection, is_repeat=attempt.retry_state.attempt_number > 1)
                        return await work(turn, *args, **kwargs)
        except PoolTimeoutError as error:
            raise DatabaseAwayError(
                "all connections to the database are busy: try again, or allow more"
            ) from error
        except RetryError as error:
            raise DatabaseAwayError(
                f"the database has not answered for {self._patience_s:g} s: see whether it runs, or wait longer"
            ) from error.last_attempt.exception()
        raise AssertionError("an attempt either returns or raises")

    def _attempts(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception(may_pass),
            wait=wait_random_exponential(multiplier=0.05, max=_LONGEST_PAUSE_S),
            stop=stop_after_delay(self._patience_s),
            before_sleep=_note,
        )


def may_pass(error: BaseException) -> bool:
    """Whether what went wrong is the connection, the server's state or a deadlock, and not the statement."""
    if isinstance(error, OperationalError | InterfaceError):
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _note(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    if state.attempt_number == 1:
        # The driver's own words: SQLAlchemy's would show the statement's values.
        said = str(getattr(error, "orig", error)).splitlines()
        _log.warning("the database does not answer: %s", said[0] if said else type(error).__name__)

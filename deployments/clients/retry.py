"""The retry policy of every call to a replica: exponential backoff until a deadline.

Replicas answer a wrong request with `Rejected` and do not raise. So whatever a call raises (errors of Ray's actors and
tasks, of Serve's router, of the transport, a timeout) is a failure of that replica or of the way to it, and another
replica may answer the repeated call.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    RetryError,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential,
)

Result = TypeVar("Result")
OnFailure = Callable[[], Awaitable[None]]
_ANY_NUMBER = 2**31


class ReplicaUnavailableError(RuntimeError):
    """No replica has answered by the deadline; the last failure is the cause. HTTP answers 503 with Retry-After.

    `retry_after_s` is the time after which it makes sense to try again, in seconds.
    """

    retry_after_s = 5


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Repeats a call until it succeeds, its deadline has passed or `max_attempts` have failed.

    The deadline of `deadline_s` holds for all attempts and pauses together; an attempt that is under way then is
    cancelled, and so is one that takes longer than `attempt_timeout_s`: an answer may be lost on its way. The first
    pause takes `first_delay_s`, each one after it twice as long, and none over `max_delay_s`.
    """

    deadline_s: float
    attempt_timeout_s: float = math.inf
    max_attempts: int = _ANY_NUMBER
    first_delay_s: float = 0.1
    max_delay_s: float = 0.5

    def __post_init__(self) -> None:
        if min(self.deadline_s, self.attempt_timeout_s) <= 0 or self.max_attempts < 1:
            raise ValueError(
                f"deadline_s = {self.deadline_s:g}, attempt_timeout_s = {self.attempt_timeout_s:g} and "
                f"max_attempts = {self.max_attempts}: use more than 0 seconds and at least 1 attempt"
            )

    async def run(
        self,
        call: Callable[[], Awaitable[Result]],
        *,
        final_errors: tuple[type[Exception], ...] = (),
        on_failure: OnFailure | None = None,
    ) -> Result:
        """Returns the first result of `call`, which is awaited anew at each attempt.

        An error of `final_errors`, which the caller raises about an answer, passes through at once. `on_failure` is
        awaited after each attempt that failed otherwise. Raises ReplicaUnavailableError.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.deadline_s
        try:
            async for attempt in self._attempts(final_errors, on_failure):
                with attempt:
                    async with asyncio.timeout_at(min(deadline, loop.time() + self.attempt_timeout_s)):
                        return await call()
        except RetryError as error:
            cause = error.last_attempt.exception()
            raise ReplicaUnavailableError(
                f"no replica answered in {error.last_attempt.attempt_number} attempts, within {self.deadline_s:g} s: "
                f"the last one failed with {type(cause).__name__}"
            ) from cause
        raise AssertionError("an attempt either returns or raises")

    def _attempts(
        self, final_errors: tuple[type[Exception], ...], on_failure: OnFailure | None
    ) -> AsyncRetrying:
        async def after(_state: RetryCallState) -> None:
            if on_failure:
                await on_failure()

        return AsyncRetrying(
            # Not BaseException: a cancelled caller wants no further attempt.
            retry=retry_if_exception(
                lambda error: isinstance(error, Exception) and not isinstance(error, final_errors)
            ),
            wait=wait_exponential(multiplier=self.first_delay_s, max=self.max_delay_s),
            stop=stop_before_delay(self.deadline_s) | stop_after_attempt(self.max_attempts),
            after=after,
        )

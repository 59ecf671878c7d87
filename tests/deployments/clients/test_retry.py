"""The retry policy: attempts, pauses, deadline and the errors that are not retried."""

from __future__ import annotations

import asyncio

import pytest
from ray.exceptions import ActorDiedError

from deployments.clients.retry import ReplicaUnavailableError, RetryPolicy

AT_ONCE = RetryPolicy(deadline_s=60, max_attempts=4, first_delay_s=0)


class Flaky:
    """A call whose first `failures` attempts raise; `attempts` counts all of them."""

    def __init__(self, failures: int, error: BaseException | None = None) -> None:
        self._failures = failures
        self._error = error or ActorDiedError()
        self.attempts = 0

    async def __call__(self) -> str:
        self.attempts += 1
        if self.attempts <= self._failures:
            raise self._error
        return "answer"


@pytest.mark.parametrize("failures", [0, 1, 3])
async def test_a_call_is_repeated_until_it_succeeds(failures: int) -> None:
    call, noted = Flaky(failures), []

    async def on_failure() -> None:
        noted.append(call.attempts)

    assert await AT_ONCE.run(call, on_failure=on_failure) == "answer"
    assert call.attempts == failures + 1 and noted == [*range(1, failures + 1)]


async def test_after_the_last_attempt_the_last_failure_is_the_cause() -> None:
    call = Flaky(100, TimeoutError("slow"))
    with pytest.raises(ReplicaUnavailableError, match=r"4 attempts, within 60 s.*TimeoutError") as raised:
        await AT_ONCE.run(call)
    assert call.attempts == 4 and str(raised.value.__cause__) == "slow"


async def test_an_attempt_that_hangs_ends_at_the_deadline() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    with pytest.raises(ReplicaUnavailableError, match="1 attempts") as raised:
        await RetryPolicy(deadline_s=0.01).run(hang)
    assert isinstance(raised.value.__cause__, TimeoutError)


async def test_an_attempt_whose_answer_is_lost_is_given_up_for_another() -> None:
    attempts = []

    async def lost_once() -> str:
        attempts.append(None)
        if len(attempts) == 1:
            await asyncio.Event().wait()
        return "answer"

    policy = RetryPolicy(deadline_s=60, attempt_timeout_s=0.01, first_delay_s=0)
    assert await policy.run(lost_once) == "answer" and len(attempts) == 2


async def test_no_pause_goes_beyond_the_deadline() -> None:
    call = Flaky(100)
    with pytest.raises(ReplicaUnavailableError):
        # The pause alone would take longer than the test may.
        await RetryPolicy(deadline_s=60, first_delay_s=3600, max_delay_s=3600).run(call)
    assert call.attempts == 1


async def test_final_errors_and_cancellations_are_not_retried() -> None:
    refused = Flaky(100, LookupError("no such world"))
    with pytest.raises(LookupError):
        await AT_ONCE.run(refused, final_errors=(LookupError,))
    cancelled = Flaky(100, asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await AT_ONCE.run(cancelled)
    assert refused.attempts == cancelled.attempts == 1


def test_a_policy_needs_time_and_an_attempt() -> None:
    with pytest.raises(ValueError, match="deadline_s = 0, attempt_timeout_s = inf and max_attempts = 1"):
        RetryPolicy(deadline_s=0, max_attempts=1)
    with pytest.raises(ValueError, match="attempt_timeout_s = 0"):
        RetryPolicy(deadline_s=1, attempt_timeout_s=0)
    with pytest.raises(ValueError, match="max_attempts = 0"):
        RetryPolicy(deadline_s=1, max_attempts=0)

"""Signals that end a program: Ctrl-C, SIGTERM of a service manager, SIGHUP of a closed terminal.

Ray's native code takes SIGTERM for a crash, and aborts with its stack; a Python handler that raises while native code
starts threads makes that abort as well. So no handler runs while Ray starts: the signals are blocked in every thread,
and the main thread waits for them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_LOOKS_AGAIN_S = 0.05
_received: list[int] = []


def received_signal() -> int:
    """The number of the first signal that was to end this program; that of Ctrl-C if none was noted."""
    return _received[0] if _received else signal.SIGINT


def run_until_signal(work: Callable[[threading.Event], T], patience_s: float) -> T:
    """Runs `work` in a thread and returns its result; the first signal sets the event that it gets, others do nothing.

    Raises what `work` raises, or TimeoutError if it has not returned `patience_s` after the signal; child processes
    are killed then.
    """
    told = threading.Event()
    with _blocked():
        future = _started(lambda: work(told))
        while not _signal_came() and not future.done():
            pass
        if not future.done():
            told.set()
        try:
            return future.result(patience_s if told.is_set() else None)
        except TimeoutError:
            if future.done():
                raise
            import psutil

            for child in psutil.Process().children(recursive=True):
                child.kill()
            raise TimeoutError(
                f"stopping took longer than {patience_s:g} s: all processes were killed"
            ) from None


def call_in_lasting_thread(start: Callable[[], T]) -> T:
    """Calls `start`, which may start Ray, in a thread that ends with this process.

    Raises KeyboardInterrupt afterwards if a signal came, and from then on at each one. Linux ends the processes that a
    thread has started together with that thread, if they ask for it as Ray's do.
    """
    with _blocked():
        future = _started(start, lasts=True)
        while not future.done():
            _signal_came()
        result = future.result()
        for number in ENDING:
            signal.signal(number, _interrupt)
    if _received:
        raise KeyboardInterrupt
    return result


@contextmanager
def deliverable() -> Iterator[None]:
    """Lets signals through in this thread, for programs that inherit what it blocks and would not hear SIGTERM."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) == 1:
        raise KeyboardInterrupt


def _note(number: int, _frame: FrameType | None) -> None:
    _received.append(number)


@contextmanager
def _blocked() -> Iterator[None]:
    """Blocks the signals in this thread and those that it starts; afterwards too if one came, the program ends then."""
    handlers = {number: signal.signal(number, _note) for number in ENDING}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        if not _received:
            for number, handler in handlers.items():
                if signal.getsignal(number) is _note:
                    signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _signal_came() -> bool:
    """Waits a moment for a signal; true once one has come."""
    if found := signal.sigtimedwait(ENDING, _LOOKS_AGAIN_S):
        _received.append(found.si_signo)
    return bool(_received)


def _started(work: Callable[[], T], lasts: bool = False) -> Future[T]:
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
        if lasts:
            threading.Event().wait()

    threading.Thread(target=run, name="start", daemon=True).start()
    return future


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


# Ray's processes are forked by Python, and have to hear SIGTERM.
os.register_at_fork(after_in_child=_unblock)

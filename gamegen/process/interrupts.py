"""Handling of Ctrl-C while a command loads its libraries, which takes seconds and has nothing yet to save."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CONSOLE_SCRIPT = "gamegen"
_FOUND_BY_PYTHON = "-m"
"""`sys.argv[0]` while `python -m` imports the packages of the module that it is to run."""


def end_quietly_while_loading() -> None:
    """Lets Ctrl-C end this process without a traceback until `interrupts_heard`, if it is a command of this package.

    Called by packages that have commands, before they import anything else. In any other process that imports them
    (a notebook, a worker of Ray), and where Ctrl-C was set to do something else, nothing changes.
    """
    is_command = sys.argv[0] == _FOUND_BY_PYTHON or Path(sys.argv[0]).name == _CONSOLE_SCRIPT
    if is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def interrupts_heard() -> Iterator[None]:
    """Has Ctrl-C raise KeyboardInterrupt, unless it is ignored or does something else; afterwards it does as before."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

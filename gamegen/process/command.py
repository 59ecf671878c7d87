"""Entry point of all commands, which prints an error as one sentence on stderr."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from gamegen.process.error_sentences import describe
from gamegen.process.interrupts import interrupts_heard
from gamegen.process.proxies import bypass_loopback
from gamegen.process.signals import received_signal

if TYPE_CHECKING:
    import typer

DEBUG_VARIABLE = "GAMEGEN_DEBUG"
_REFUSED, _FAILED = 2, 1
_PIPE_CLOSED = 141
_DEBUG_OPTION = "--debug"


def run_command(command: typer.Typer | Callable[..., Any]) -> None:
    """Runs a command line: a Typer application, or a function whose parameters are its options. As `run_program`."""
    import typer

    run_program(command if isinstance(command, typer.Typer) else lambda: typer.run(command))


def run_program(program: Callable[[], Any]) -> None:
    """Calls a program that reads its own command line.

    An error ends it with one sentence and exit code 2, or 1 for an error that nobody foresaw, whose sentence says
    where it arose. `--debug` anywhere on the command line, or GAMEGEN_DEBUG=1, shows the traceback too. A signal ends
    it with 128 and its number.
    """
    with interrupts_heard():
        _run(program)


def _run(program: Callable[[], Any]) -> None:
    _prepare()
    try:
        program()
    except BrokenPipeError:
        # Whoever read the output has seen enough; the interpreter would complain when it flushes what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_PIPE_CLOSED) from None
    except KeyboardInterrupt as interrupt:
        _show_traceback(interrupt)
        print("gamegen: stopped", file=sys.stderr)
        raise SystemExit(128 + received_signal()) from None
    except Exception as error:
        _show_traceback(error)
        found = describe(error)
        more = "" if found.is_foreseen or _debugs() else f"; {_DEBUG_OPTION} shows the traceback"
        print(f"gamegen: {found.sentence}{more}", file=sys.stderr)
        raise SystemExit(_REFUSED if found.is_foreseen else _FAILED) from None


def _prepare() -> None:
    own, separator, rest = _split(sys.argv[1:])
    if _DEBUG_OPTION in own:
        # A variable, since commands start programs and Ray's workers that fail in turn.
        os.environ[DEBUG_VARIABLE] = "1"
        sys.argv[1:] = [word for word in own if word != _DEBUG_OPTION] + separator + rest
    bypass_loopback()
    for stream in (sys.stdout, sys.stderr):
        _write_anything(stream)


def _split(words: list[str]) -> tuple[list[str], list[str], list[str]]:
    """The words before `--`, it, and those after it, which are never options."""
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place : place + 1], words[place + 1 :]


def _write_anything(stream: TextIO) -> None:
    """Has a stream replace what its encoding lacks: a prompt in Greek must not end a command in an ASCII terminal."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def _debugs() -> bool:
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def _show_traceback(error: BaseException) -> None:
    if _debugs():
        traceback.print_exception(error)

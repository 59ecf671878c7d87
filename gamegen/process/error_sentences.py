"""Exceptions as sentences for whoever runs a command: what went wrong, and what to do about it."""

from __future__ import annotations

import errno
import re
import shlex
import subprocess
import sys
import traceback
import urllib.error
from typing import Any, NamedTuple

from gamegen.process.proxies import proxy_words
from gamegen.process.ray_machine import logs_folder

_OURS = {"gamegen", "jobs", "deployments", "loadtest", "cluster", "gamegen_client"}
_ADVICE = {
    errno.EACCES: "choose another place, or run it as a user who may use this one",
    errno.EPERM: "choose another place, or run it as a user who may use this one",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "free some space, or choose another place",
    errno.EMFILE: "raise the limit in the shell that starts it: ulimit -n 8192",
    errno.ENFILE: "end some other programs: the whole machine has no more",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a file instead of a folder",
    errno.EADDRINUSE: "stop what uses the port, or choose another one",
    errno.EADDRNOTAVAIL: "use an address of this machine",
    errno.ECONNREFUSED: "is the server running there?",
    errno.ENOMEM: "end some other programs, or use a machine with more memory",
}
"""What to do about an error of the operating system, by its number."""
_NO_TEMPORARY_FOLDER = "No usable temporary directory found"
"""How Python's `tempfile` says so, with the number of a file that is missing."""
_REMOTE_LINE = re.compile(r'File "([^"]+)", line (\d+)[^\n]*\n\s*([^\n]*)')
_MAX_CHARACTERS = 600


class Description(NamedTuple):
    """An error in words; `is_foreseen` is false for one that is probably a fault of the program."""

    sentence: str
    is_foreseen: bool


class _CodeLine(NamedTuple):
    """A line of code: its module's file, its number, and its text."""

    file: str
    line: int
    text: str

    @property
    def is_our_refusal(self) -> bool:
        """True if it is a `raise` of this program, whose message was written for people."""
        parts = set(self.file.replace("\\", "/").split("/"))
        return self.text.startswith("raise ") and bool(parts & _OURS) and "site-packages/ray" not in self.file


def describe(error: BaseException) -> Description:
    """The sentence for an error that ended a command."""
    for translate in (_ray_failure, _missing_memory, _failed_program, _connection, _database, _system):
        if found := translate(error):
            return found
    return _other(error, _place_of(error))


def first_line(text: str) -> str:
    """The first line of a message that says something, shortened."""
    lines = (line.strip() for line in text.splitlines())
    line = next((line for line in lines if line), "")
    return line if len(line) <= _MAX_CHARACTERS else f"{line[:_MAX_CHARACTERS]}..."


def _ray_failure(error: BaseException) -> Description | None:
    """Failures of Ray's tasks and of Ray Train's workers: what their own code raised."""
    names = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
    if "ray" not in names:
        return None
    parts = vars(error)
    failures = parts.get("worker_failures") or {}
    cause = parts.get("controller_failure") or next(iter(failures.values()), None) or parts.get("cause")
    # Ray Train keeps a worker's error inside another one.
    cause = getattr(cause, "_base_exc", cause)
    if isinstance(cause, BaseException) and cause is not error:
        remote = str(getattr(error, "traceback_str", "") or error)
        return describe(cause) if cause.__traceback__ else _described_remote(cause, remote)
    return Description(f"{first_line(str(error))}; Ray's logs are in {logs_folder()}", is_foreseen=False)


def _described_remote(cause: BaseException, remote_traceback: str) -> Description:
    for translate in (_ray_failure, _missing_memory, _failed_program, _connection, _database, _system):
        if found := translate(cause):
            return found
    places = [_CodeLine(file, int(line), text) for file, line, text in _REMOTE_LINE.findall(remote_traceback)]
    return _other(cause, places[-1] if places else None)


def _missing_memory(error: BaseException) -> Description | None:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        reason = first_line(str(error))
        return Description(
            f"not enough memory{f' ({reason})' if reason else ''}: take smaller batches, or a larger machine",
            is_foreseen=True,
        )
    return None


def _failed_program(error: BaseException) -> Description | None:
    if isinstance(error, subprocess.CalledProcessError):
        words = _last_line(error.stderr) or _last_line(error.stdout)
        name = _command_words(error.cmd)
        return Description(f"{name} ended with {error.returncode}{f': {words}' if words else ''}", True)
    if isinstance(error, subprocess.TimeoutExpired):
        return Description(
            f"{_command_words(error.cmd)} has not ended after {round(error.timeout, 2):g} s", True
        )
    return None


def _connection(error: BaseException) -> Description | None:
    """HTTP and WebSocket errors, with the address and, if there is one, the proxy in between."""
    if isinstance(error, urllib.error.HTTPError):
        return Description(f"{answered(error.url or '', error.code)} ({error.reason})", is_foreseen=True)
    if isinstance(error, urllib.error.URLError):
        return Description(f"the server cannot be reached: {error.reason}", is_foreseen=True)
    if (httpx := sys.modules.get("httpx")) and isinstance(error, httpx.HTTPStatusError):
        answer = error.response
        words = answered(str(error.request.url), answer.status_code)
        return Description(f"{words} ({answer.reason_phrase})", is_foreseen=True)
    if httpx and isinstance(error, httpx.RequestError):
        url = str(error.request.url) if vars(error).get("_request") else "the server"
        return Description(unreachable(url, error), is_foreseen=True)
    if type(error).__module__.startswith(("websockets.", "httpcore.")):
        return Description(f"the connection failed: {first_line(str(error))}", is_foreseen=True)
    return None


def unreachable(url: str, error: BaseException) -> str:
    """The sentence for an address that does not answer; it names the proxy in between, if there is one."""
    reason = first_line(str(getattr(error, "reason", None) or error)) or type(error).__name__
    proxy = proxy_words(url)
    if proxy:
        return f"{url} cannot be reached {proxy} ({reason}): add its host to NO_PROXY if it needs none"
    return f"{url} cannot be reached ({reason}): is the server running there?"


def answered(url: str, status: int) -> str:
    """The words for an answer that is an error; they name the proxy in between, which may have given it."""
    proxy = proxy_words(url)
    return f"{url} answers {status}" + (f" {proxy}" if proxy else "")


def _database(error: BaseException) -> Description | None:
    """Errors of the stores' clients: the database's and the session store's."""
    kind = type(error).__module__.partition(".")[0]
    if kind in ("sqlalchemy", "psycopg") and hasattr(error, "orig" if kind == "sqlalchemy" else "sqlstate"):
        reason = first_line(str(getattr(error, "orig", None) or error))
        return Description(f"the database: {reason}; check DATABASE_URL, if it is set", is_foreseen=True)
    if kind in ("valkey", "redis"):
        return Description(
            f"the session store: {first_line(str(error))}; check REDIS_URL, if it is set", is_foreseen=True
        )
    return None


def _system(error: BaseException) -> Description | None:
    """Errors of the operating system, with the file and what to do."""
    if not isinstance(error, OSError) or error.errno is None:
        return None
    if _NO_TEMPORARY_FOLDER in str(error):
        return Description(
            "no temporary folder can be written to: set TMPDIR to a folder that this user can write to", True
        )
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    reason = (error.strerror or str(error)).rstrip(".")
    what = f"{' and '.join(files)}: {reason[:1].lower()}{reason[1:]}" if files else reason
    advice = _ADVICE.get(error.errno)
    return Description(f"{what}: {advice}" if advice else what, is_foreseen=bool(files or advice))


def _other(error: BaseException, place: _CodeLine | None) -> Description:
    message = str(error) or type(error).__name__
    if place and place.is_our_refusal and not isinstance(error, AssertionError):
        return Description(message, is_foreseen=True)
    where = f" in {place.file}, line {place.line}" if place else ""
    return Description(f"{first_line(message)} ({type(error).__name__}{where})", is_foreseen=False)


def _place_of(error: BaseException) -> _CodeLine | None:
    frames = traceback.extract_tb(error.__traceback__)
    return _CodeLine(frames[-1].filename, frames[-1].lineno or 0, frames[-1].line or "") if frames else None


def _command_words(command: Any) -> str:
    words = [command] if isinstance(command, str) else [str(word) for word in command]
    return first_line(shlex.join(words))


def _last_line(output: str | bytes | None) -> str:
    text = output.decode(errors="replace") if isinstance(output, bytes) else output or ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""

"""An embedded PostgreSQL server, which changes nothing outside of its folder."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from gamegen.service.database.postgres_account import (
    REMEDY,
    WORKING_FOLDER,
    Account,
    DatabaseStartError,
    account_of,
    create_cluster,
    programs_for,
    remove_copy,
)
from gamegen.unix_sockets import short_path

if TYPE_CHECKING:
    from psutil import Process

_log = logging.getLogger(__name__)
_PORT = 5432
"""Part of the socket file's name; nothing listens on the network."""
_SETTINGS = {
    "port": _PORT,
    "listen_addresses": "",
    # In the data folder, which is the server's working folder.
    "unix_socket_directories": ".",
    "unix_socket_permissions": "0700",
    # Files of the data folder instead of /dev/shm, which is small in containers.
    "dynamic_shared_memory_type": "mmap",
}
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 60.0
_POLL_S = 0.1


class PostgresServer:
    """PostgreSQL 18 on a folder, which any number of processes of a user share.

    Whoever needs it first starts it; whoever closes it last stops it. What others leave behind when they are killed
    is found out by locks, which the system releases:

    - `server.lock` is held by the server and each of its processes, so a free lock means that none is left;
    - `users.lock` is held, shared, by everybody who uses the server.

    Where this process is root, another user runs the server (`account_of`). Only this process's user and root can open
    the socket file.

    The database is in `data` of the folder, or in the folder itself where an earlier version has made it there.
    """

    def __init__(self, folder: Path) -> None:
        """Starts the server or finds it running; `folder` is created, its parent must exist.

        Raises DatabaseStartError with one sentence if the server does not start within two minutes.
        """
        self.folder = folder.absolute()
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = ExitStack()
        with ExitStack() as failing:
            self._users = self._open_folder()
            failing.callback(self._closing.close)
            failing.callback(self._leave)
            # Data first, since the socket's path leads through their folder.
            self._wait_for_data()
            account_of(self.data)
            self._socket_folder = self._closing.enter_context(short_path(self.data))
            self.ensure_running()
            failing.pop_all()

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder if (self.folder / "PG_VERSION").exists() else self.folder / "data"

    def url(self, database: str = "postgres") -> str:
        """The URL of one of its databases, for processes of this user while this object is open."""
        from sqlalchemy import URL

        query = {"host": str(self._socket_folder), "port": str(_PORT)}
        return URL.create("postgresql", "postgres", database=database, query=query).render_as_string()

    def main_process(self) -> Process | None:
        """The server's main process, None if it does not run.

        Known by the id of its start on its command line: the number alone may be anybody's by now.
        """
        import psutil

        try:
            process = psutil.Process(_number_in(self._pid_file))
            return process if self._start_argument() in process.cmdline() else None
        except (OSError, ValueError, psutil.Error):
            return None

    def is_dead(self) -> bool:
        """Whether no process of the server is left."""
        lock = self._free_lock()
        if lock is not None:
            os.close(lock)
        return lock is not None

    def ensure_running(self) -> None:
        """Starts the server unless it answers a query; raises DatabaseStartError after two minutes."""
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        is_started = False
        while True:
            lock = self._free_lock()
            if lock is not None:
                try:
                    if is_started:
                        raise self._error("has ended at once")
                    self._start(lock)
                    is_started = True
                finally:
                    os.close(lock)
            reason = self._why_no_answer()
            if reason is None:
                return
            if time.monotonic() > give_up_at:
                raise self._error(f"has not answered for {_START_TIMEOUT_S:g} s: {reason}")
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Stops the server, unless somebody else uses it."""
        self._leave()
        self._closing.close()

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def _pid_file(self) -> Path:
        return self.data / "postmaster.pid"

    def _open_folder(self) -> int:
        """Descriptor of the users' lock, of which this object now has a share."""
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            users = _open_lock(self.folder / "users.lock")
        except OSError as error:
            raise DatabaseStartError(
                f"no database can be in {self.folder} ({error.strerror}): "
                f"set XDG_DATA_HOME to a folder that this user can write to, or {REMEDY}"
            ) from error
        try:
            fcntl.flock(users, fcntl.LOCK_SH)
        except OSError as error:
            os.close(users)
            raise DatabaseStartError(
                f"the file system of {self.folder} has no locks ({error.strerror}): "
                f"set XDG_DATA_HOME to a folder of a local disk, or {REMEDY}"
            ) from error
        return users

    def _free_lock(self) -> int | None:
        """Descriptor of the server's lock, None while a server has it."""
        if self._process is not None:
            # Lets the system forget a child that has ended.
            self._process.poll()
        lock = _open_lock(self.folder / "server.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock

    def _wait_for_data(self) -> None:
        """Creates the database unless it is there; waits while another process does."""
        while not self.data.exists():
            lock = self._free_lock()
            if lock is None:
                time.sleep(_POLL_S)
                continue
            try:
                self._create()
            finally:
                os.close(lock)

    def _create(self) -> None:
        # Renamed when it is whole, so that it may be interrupted.
        unfinished = self.folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        account = account_of(self.data)
        create_cluster(unfinished, account, programs_for(account, self._copy_record))
        unfinished.rename(self.data)

    @property
    def _copy_record(self) -> Path:
        return self.folder / "programs"

    def _start(self, lock: int) -> None:
        """Starts a server that holds the lock."""
        self._remove_stale_locks()
        account = account_of(self.data)
        if account.user is not None and self.data.stat().st_uid != account.user:
            account.own(self.data)
        # A volume may have been given wider modes, which PostgreSQL refuses.
        self.data.chmod(0o700)
        (self.folder / "start_id").write_text(secrets.token_hex(8))
        command = [str(programs_for(account, self._copy_record) / "postgres"), "-D", WORKING_FOLDER]
        for name, value in _SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        command += ["-c", self._start_argument()]
        self._process = self._run(command, account, lock)

    def _run(self, command: list[str], account: Account, lock: int) -> subprocess.Popen[bytes]:
        try:
            with (self.folder / "log").open("ab") as log:
                return subprocess.Popen(
                    command,
                    cwd=self.data,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Ctrl-C is for us.
                    start_new_session=True,
                    pass_fds=[lock],
                    **account.options(),
                )
        except OSError as error:
            raise self._error(f"cannot be run ({error})") from error

    def _start_argument(self) -> str:
        return f"gamegen.start_id={(self.folder / 'start_id').read_text()}"

    def _remove_stale_locks(self) -> None:
        """Frees PostgreSQL's own lock files; raises DatabaseStartError if a server without our lock runs here.

        PostgreSQL itself would take any process of this user with such a number for a server.
        """
        other = self._foreign_server()
        if other is not None:
            raise DatabaseStartError(
                f"PostgreSQL (process {other}) runs on {self.data} already, started by another program or "
                f"an earlier version: stop it with `kill -INT {other}`, or {REMEDY}"
            )
        for file in self.data.glob(".s.PGSQL.*"):
            file.unlink()
        if not self._pid_file.exists():
            return
        _, is_whole, rest = self._pid_file.read_text().partition("\n")
        if is_whole:
            # PostgreSQL passes over the number of its parent, and still looks whether the memory named there is in use.
            self._pid_file.write_text(f"{os.getpid()}\n{rest}")
        else:
            self._pid_file.unlink()

    def _foreign_server(self) -> int | None:
        """The number of a process of PostgreSQL on this data folder, which is its argument or its working folder."""
        import psutil

        for process in psutil.process_iter(["name", "cmdline", "cwd", "status"]):
            found = process.info
            if found["name"] != "postgres" or found["status"] == psutil.STATUS_ZOMBIE:
                continue
            if str(self.data) in (found["cmdline"] or ()) or found["cwd"] == str(self.data.resolve()):
                return process.pid
        return None

    def _why_no_answer(self) -> str | None:
        """The reason that it answers no query, None if it does."""
        import psycopg

        try:
            with psycopg.connect(self.url(), connect_timeout=5) as connection:
                connection.execute("select 1")
        except psycopg.OperationalError as error:
            return str(error)
        return None

    def _error(self, what: str) -> DatabaseStartError:
        log = self.folder / "log"
        return DatabaseStartError(f"the embedded PostgreSQL {what}: see {log} for the reason, or {REMEDY}")

    def _leave(self) -> None:
        """Gives up this object's share of the server, and stops the server if it was the last."""
        # Not by one call that turns a share into the whole: of two who leave at once, neither would be the last.
        fcntl.flock(self._users, fcntl.LOCK_UN)
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._stop()
        except BlockingIOError:
            pass
        finally:
            os.close(self._users)

    def _stop(self) -> None:
        # Fast, which disconnects clients; then at once, after which the next start repairs.
        for number in (signal.SIGINT, signal.SIGQUIT):
            process = self.main_process()
            if process is not None:
                process.send_signal(number)
            give_up_at = time.monotonic() + _STOP_TIMEOUT_S
            while time.monotonic() < give_up_at:
                if self.is_dead():
                    remove_copy(self._copy_record)
                    return
                time.sleep(_POLL_S)
        _log.warning("the database on %s does not stop", self.folder)


def _open_lock(file: Path) -> int:
    return os.open(file, os.O_RDWR | os.O_CREAT, 0o600)


def _number_in(file: Path) -> int:
    """The process number in the first line of PostgreSQL's lock file; raises ValueError if there is none."""
    return int(file.read_text(encoding="utf-8").partition("\n")[0])

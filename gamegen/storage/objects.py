"""Where large things are kept: a folder on this machine, or a bucket of any S3 service.

One small interface for both. A key is a path of names joined by `/`; an object appears whole or not at all.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

_NAME = re.compile(r"[A-Za-z0-9._=-]+")
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_TAKEN = {"412", "PreconditionFailed", "ConditionalRequestConflict"}


class StorageError(ValueError):
    """The store cannot be reached, refuses, or holds something damaged; the message says which and what to do."""


class ObjectNotFoundError(StorageError):
    """There is no object of this key."""


class ObjectExistsError(StorageError):
    """An object of this key is already there and was to be created."""


class ObjectStore(ABC):
    """Objects by key."""

    @abstractmethod
    def upload(self, key: str, file: Path, create: bool = False) -> None:
        """Stores a file; with `create`, raises ObjectExistsError if the key is taken, atomically."""

    @abstractmethod
    def download(self, key: str, file: Path) -> None:
        """Writes an object to `file`, whose folder is made; raises ObjectNotFoundError."""

    @abstractmethod
    def keys(self, prefix: str) -> Iterator[str]:
        """Every key that begins with `prefix`, sorted."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes an object; one that is not there is no error."""

    def write(self, key: str, data: bytes, create: bool = False) -> None:
        """Stores a few bytes."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "object"
            file.write_bytes(data)
            self.upload(key, file, create)

    def read(self, key: str) -> bytes:
        """The bytes of a small object."""
        with tempfile.TemporaryDirectory() as folder:
            self.download(key, Path(folder) / "object")
            return (Path(folder) / "object").read_bytes()


class LocalStore(ObjectStore):
    """Objects as files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return str(self.folder)

    def upload(self, key: str, file: Path, create: bool = False) -> None:
        target = self._file(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=target.parent)
        partial = Path(name)
        try:
            with file.open("rb") as source, os.fdopen(descriptor, "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
                copy.flush()
                os.fsync(copy.fileno())
            # A link refuses a name that is taken, a rename replaces it; both are atomic.
            if create:
                target.hardlink_to(partial)
            else:
                partial.replace(target)
        except FileExistsError as error:
            raise ObjectExistsError(f"{key} is already in {self}") from error
        finally:
            partial.unlink(missing_ok=True)

    def download(self, key: str, file: Path) -> None:
        source = self._file(key)
        if not source.is_file():
            raise ObjectNotFoundError(f"{key} is not in {self}")
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, file)

    def keys(self, prefix: str) -> Iterator[str]:
        found = (
            file.relative_to(self.folder).as_posix()
            for file in self.folder.rglob("*")
            if file.is_file() and not file.name.startswith(".")
        )
        yield from sorted(key for key in found if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self._file(key).unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self.folder / check_key(key)


class S3Store(ObjectStore):
    """Objects in a bucket, below `prefix`. Large files travel in parts; credentials are boto3's usual ones."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket, self.prefix = bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        retries = Config(retries={"mode": "standard", "total_max_attempts": 5})
        self._client = boto3.client("s3", config=retries)

    def __repr__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def upload(self, key: str, file: Path, create: bool = False) -> None:
        name = self.prefix + check_key(key)
        try:
            if create:
                with file.open("rb") as body:
                    self._client.put_object(Bucket=self.bucket, Key=name, Body=body, IfNoneMatch="*")
            else:
                self._client.upload_file(str(file), self.bucket, name)
        except (ClientError, BotoCoreError, boto3.exceptions.Boto3Error) as error:
            raise self._error(key, error) from error

    def download(self, key: str, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._client.download_file(self.bucket, self.prefix + check_key(key), str(file))
        except (ClientError, BotoCoreError) as error:
            raise self._error(key, error) from error

    def keys(self, prefix: str) -> Iterator[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.prefix + prefix
        )
        try:
            for page in pages:
                yield from (item["Key"].removeprefix(self.prefix) for item in page.get("Contents", ()))
        except (ClientError, BotoCoreError) as error:
            raise self._error(prefix, error) from error

    def delete(self, key: str) -> None:
        try:
            self._client.delete_object(Bucket=self.bucket, Key=self.prefix + check_key(key))
        except (ClientError, BotoCoreError) as error:
            raise self._error(key, error) from error

    def _error(self, key: str, error: Exception) -> StorageError:
        code = error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else None
        if code in _ABSENT:
            return ObjectNotFoundError(f"{key} is not in {self}")
        if code in _TAKEN:
            return ObjectExistsError(f"{key} is already in {self}")
        return StorageError(f"{self}: {error}; check the bucket, AWS_ENDPOINT_URL and the credentials")


def open_store(url: str) -> ObjectStore:
    """The store of `s3://bucket/prefix` or of a folder; raises StorageError for any other scheme."""
    parts = urlsplit(url)
    if parts.scheme == "s3":
        if not parts.netloc:
            raise StorageError(f"{url!r} names no bucket: write s3://bucket/prefix")
        return S3Store(parts.netloc, parts.path)
    if parts.scheme:
        raise StorageError(f"cannot store in {url!r}: give s3://bucket/prefix or a folder")
    return LocalStore(Path(url).expanduser())


def default_url() -> str:
    """A folder of this user's, for those who name no store."""
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return str(Path(data) / "gamegen" / "objects")


def check_key(key: str) -> str:
    """`key`, if it is one: names of letters, digits and `._=-` joined by `/`; raises StorageError otherwise."""
    names = PurePosixPath(key).parts
    if not 0 < len(key) <= 512 or "/".join(names) != key or not all(map(_NAME.fullmatch, names)):
        raise StorageError(f"{key[:80]!r} is no key: up to 512 letters, digits and ._=- in names joined by /")
    if any(name.startswith(".") for name in names):
        raise StorageError(f"{key!r} is no key: no name may begin with a dot")
    return key

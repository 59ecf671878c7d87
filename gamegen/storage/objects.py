"""Object stores by address: a folder on this machine, or a bucket of any S3 service."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from gamegen.folders import create_folder, data_folder
from gamegen.storage.interface import (
    MissingStoreError,
    NotRemovedError,
    ObjectEntry,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectStore,
    StorageError,
    check_key,
)
from gamegen.storage.local import LocalStore
from gamegen.storage.s3 import S3Store
from gamegen.storage.s3_client import S3Settings

__all__ = [
    "LocalStore",
    "MissingStoreError",
    "NotRemovedError",
    "ObjectEntry",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "ObjectStore",
    "S3Settings",
    "S3Store",
    "StorageError",
    "check_key",
    "default_url",
    "open_plain_store",
]


def open_plain_store(url: str) -> ObjectStore:
    """The store of `s3://bucket/prefix` or of a folder, whose objects are as they lie there.

    `gamegen.storage.encryption.open_store` is what everything else opens. Raises StorageError for any other scheme.
    """
    if url.startswith("s3://"):
        # Not by urlsplit: a prefix may hold # and ?.
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise StorageError(f"{url!r} names no bucket: write s3://bucket/prefix")
        return S3Store(bucket, prefix)
    if urlsplit(url).scheme:
        raise StorageError(f"cannot store in {url!r}: give s3://bucket/prefix or a folder")
    return LocalStore(Path(url).expanduser())


def default_url() -> str:
    """The default store: a folder in the user's data directory, made if missing, which only this user may enter.

    Raises ValueError if there can be none.
    """
    folder = data_folder() / "objects"
    create_folder(folder, "set XDG_DATA_HOME to a folder that this user can write to, or OBJECT_STORE_URL")
    # Clips are their players' own. Earlier versions closed each file instead.
    if folder.stat().st_uid == os.geteuid():
        folder.chmod(0o700)
    return str(folder)

"""Object stores by address: a folder on this machine, or a bucket of any S3 service."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from gamegen.folders import data_folder
from gamegen.storage.interface import (
    MissingStoreError,
    ObjectEntry,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectStore,
    StorageError,
    check_key,
)
from gamegen.storage.local import LocalStore
from gamegen.storage.s3 import S3Settings, S3Store

__all__ = [
    "LocalStore",
    "MissingStoreError",
    "ObjectEntry",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "ObjectStore",
    "S3Settings",
    "S3Store",
    "StorageError",
    "check_key",
    "default_url",
    "open_store",
]


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
    """The default store: a folder in the user's data directory."""
    return str(data_folder() / "objects")

"""Objects in a bucket of any S3 service."""

from __future__ import annotations

import logging
import mimetypes
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError
from botocore.response import StreamingBody

from gamegen.storage.interface import (
    LONGEST_URL_S,
    PIECE_BYTES,
    MissingStoreError,
    ObjectEntry,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectStore,
    StorageError,
    check_key,
    check_range,
    is_key,
    past_end_error,
)
from gamegen.storage.s3_client import S3Settings, connect

_ABSENT = {"404", "NoSuchKey", "NotFound"}
_TAKEN = {"412", "PreconditionFailed", "ConditionalRequestConflict"}
_BEHIND_END = {"416", "InvalidRange"}
_NO_BUCKET = "NoSuchBucket"
_GONE = {"NoSuchUpload", "NoSuchKey", "404"}
_WRONG_KEYS = {"SignatureDoesNotMatch", "InvalidAccessKeyId", "403", "AccessDenied", "Forbidden"}
_ERRORS = (ClientError, BotoCoreError, boto3.exceptions.Boto3Error)
_UNSUPPORTED_STATUSES = {400, 405, 411, 415, 501}
"""HTTP statuses by which services refuse what they do not know; each has its own code for it."""
_log = logging.getLogger(__name__)
_UNSAFE = re.compile(r"[^A-Za-z0-9._ -]")


class S3Store(ObjectStore):
    """Objects in a bucket, below `prefix`. `settings` come from the environment if none are given."""

    def __init__(self, bucket: str, prefix: str = "", settings: S3Settings | None = None) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.settings = settings or S3Settings.from_environment()
        self._client = connect(self.settings)
        self._deletes_batches = True
        part_bytes = self.settings.part_bytes
        self._transfer = TransferConfig(multipart_threshold=part_bytes, multipart_chunksize=part_bytes)

    def __repr__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def upload(self, key: str, file: Path, create: bool = False, content_type: str | None = None) -> None:
        name = self.prefix + check_key(key)
        kind = content_type or mimetypes.guess_type(key)[0] or "application/octet-stream"
        extra: dict[str, Any] = {"ContentType": kind, **self.settings.headers}
        try:
            if create:
                self._create(name, file, extra)
            else:
                self._client.upload_file(str(file), self.bucket, name, ExtraArgs=extra, Config=self._transfer)
        except _ERRORS as error:
            raise self._error(key, error) from error

    def download(self, key: str, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._client.download_file(self.bucket, self.prefix + check_key(key), str(file))
        except _ERRORS as error:
            raise self._error(key, error) from error

    def size(self, key: str) -> int:
        try:
            answer = self._client.head_object(Bucket=self.bucket, Key=self.prefix + check_key(key))
        except _ERRORS as error:
            raise self._error(key, error) from error
        return answer["ContentLength"]

    def read_range(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        asked: dict[str, str] = {"Bucket": self.bucket, "Key": self.prefix + check_key(key)}
        if start or stop is not None:
            check_range(key, start, stop)
            asked["Range"] = f"bytes={start}-" + ("" if stop is None else str(stop - 1))
        try:
            answer = self._client.get_object(**asked)
        except _ERRORS as error:
            if _code(error) in _BEHIND_END:
                raise past_end_error(key, start) from error
            raise self._error(key, error) from error
        return self._pieces(key, answer["Body"])

    def url(
        self, key: str, expires_s: int, filename: str | None = None, content_type: str | None = None
    ) -> str | None:
        if not 1 <= expires_s <= LONGEST_URL_S:
            raise StorageError(f"a URL cannot be good for {expires_s} s: choose 1 to {LONGEST_URL_S}")
        parameters = {"Bucket": self.bucket, "Key": self.prefix + check_key(key)}
        if filename:
            # Nothing that could end the quotes or the header.
            parameters["ResponseContentDisposition"] = f'attachment; filename="{_UNSAFE.sub("_", filename)}"'
        if content_type:
            parameters["ResponseContentType"] = content_type
        try:
            return self._client.generate_presigned_url("get_object", parameters, expires_s)
        except _ERRORS as error:
            raise self._error(key, error) from error

    def entries(self, prefix: str) -> Iterator[ObjectEntry]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.prefix + prefix
        )
        try:
            for page in pages:
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(self.prefix)
                    # Consoles and other programs leave markers of folders, and files with any name.
                    if is_key(key):
                        yield ObjectEntry(key, item["Size"], item["LastModified"].timestamp())
        except _ERRORS as error:
            raise self._error(prefix, error) from error

    def delete(self, key: str) -> None:
        try:
            self._client.delete_object(Bucket=self.bucket, Key=self.prefix + check_key(key))
        except _ERRORS as error:
            # Amazon's service says nothing about a missing object, Google's 404.
            if _code(error) not in _ABSENT:
                raise self._error(key, error) from error

    def remove_unfinished(self, older_s: float) -> int:
        count, before = 0, time.time() - older_s
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self.bucket, Prefix=self.prefix
        )
        try:
            for page in pages:
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"].timestamp() <= before:
                        count += self._abort(upload["Key"], upload["UploadId"])
        except _ERRORS as error:
            if count or not _is_unsupported(error):
                raise self._error("unfinished uploads", error) from error
            _log.warning("%s lists no unfinished uploads: have it remove old ones by a rule of its own", self)
        return count

    def _create(self, name: str, file: Path, extra: dict[str, Any]) -> None:
        target = {"Bucket": self.bucket, "Key": name}
        # Some services take the condition and do not keep it: what is there already is looked for first.
        try:
            self._client.head_object(**target)
        except ClientError as error:
            if _code(error) not in _ABSENT:
                raise
        else:
            raise ObjectExistsError(f"{name.removeprefix(self.prefix)} is already in {self}")
        with file.open("rb") as body:
            try:
                self._client.put_object(**target, Body=body, IfNoneMatch="*", **extra)
            except ClientError as error:
                if not _is_unsupported(error):
                    raise
                _log.warning(
                    "%s has no conditional writes: have one program at a time add to it, or use another service",
                    self,
                )
                body.seek(0)
                self._client.put_object(**target, Body=body, **extra)

    def _delete_batch(self, keys: list[str]) -> dict[str, Exception]:
        return self._delete_singly(self._left_of_batch(keys))

    def _left_of_batch(self, keys: list[str]) -> list[str]:
        """Removes objects by one request; returns the keys of those that may still be there."""
        if not self._deletes_batches:
            return keys
        objects = [{"Key": self.prefix + check_key(key)} for key in keys]
        try:
            answer = self._client.delete_objects(
                Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True}
            )
        except _ERRORS as error:
            if not _is_unsupported(error):
                raise self._error(keys[0], error) from error
            _log.warning("%s removes no objects in batches (%s): they are removed one by one", self, error)
            self._deletes_batches = False
            return keys
        failed = {item.get("Key") for item in answer.get("Errors", ()) if item.get("Code") not in _ABSENT}
        return [key for key in keys if self.prefix + key in failed]

    def _delete_singly(self, keys: list[str]) -> dict[str, Exception]:
        """Removes objects one by one; returns the reasons of those that the service refuses to remove."""
        refused: dict[str, Exception] = {}
        for key in keys:
            try:
                self.delete(key)
            except StorageError as error:
                # Of a service that does not answer, or not now, the next object would be no different.
                if not _is_refusal(error.__cause__):
                    raise
                refused[key] = error
        return refused

    def _abort(self, name: str, upload_id: str) -> int:
        try:
            self._client.abort_multipart_upload(Bucket=self.bucket, Key=name, UploadId=upload_id)
        except ClientError as error:
            # It ended, or another process was quicker.
            if _code(error) not in _GONE:
                raise
            return 0
        return 1

    def _pieces(self, key: str, body: StreamingBody) -> Iterator[bytes]:
        try:
            with body:
                yield from body.iter_chunks(PIECE_BYTES)
        except BotoCoreError as error:
            raise self._error(key, error) from error

    def _error(self, key: str, error: Exception) -> StorageError:
        code = _code(error)
        if code in _ABSENT:
            return ObjectNotFoundError(f"{key} is not in {self}")
        if code == _NO_BUCKET:
            return MissingStoreError(
                f"{self}: there is no bucket {self.bucket!r}: create it, or name another"
            )
        if code in _TAKEN:
            return ObjectExistsError(f"{key} is already in {self}")
        if code in _WRONG_KEYS or any(f"({name})" in str(error) for name in _WRONG_KEYS):
            return StorageError(
                f"{self} refuses ({error}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
            )
        return StorageError(
            f"{self}: {error}; check the bucket, OBJECT_STORE_ENDPOINT or AWS_ENDPOINT_URL, and the credentials"
        )


def _code(error: Exception) -> str | None:
    return error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else None


def _status(error: BaseException | None) -> int:
    """The HTTP status of a service's answer, 0 if there was none."""
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_unsupported(error: BaseException) -> bool:
    return _status(error) in _UNSUPPORTED_STATUSES


def _is_refusal(error: BaseException | None) -> bool:
    return 400 <= _status(error) < 500 or _status(error) == 501

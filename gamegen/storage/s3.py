"""Objects in a bucket of any S3 service."""

from __future__ import annotations

import mimetypes
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
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
    past_end_error,
)

_ABSENT = {"404", "NoSuchKey", "NotFound"}
_TAKEN = {"412", "PreconditionFailed", "ConditionalRequestConflict"}
_BEHIND_END = {"416", "InvalidRange"}
_NO_BUCKET = "NoSuchBucket"
_GONE = {"NoSuchUpload", "NoSuchKey", "404"}
_WRONG_KEYS = {"SignatureDoesNotMatch", "InvalidAccessKeyId", "403", "AccessDenied", "Forbidden"}
_ERRORS = (ClientError, BotoCoreError, boto3.exceptions.Boto3Error)
_SMALLEST_PART_BYTES = 5 << 20
_CONNECTIONS = 32
_UNSAFE = re.compile(r"[^A-Za-z0-9._ -]")


@dataclass(frozen=True)
class S3Settings:
    """Connection settings of a bucket; credentials and region are boto3's usual ones.

    `endpoint` is the service's address, Amazon's without one. `encryption` is done by the service with its own keys
    ("AES256") or with those of a key service ("aws:kms", of which `kms_key` names one). Files of more than `part_bytes`
    travel in parts of that size. A service that is silent is an error after `connect_timeout_s` or `read_timeout_s`,
    each tried `attempts` times.
    """

    endpoint: str | None = None
    encryption: str | None = None
    kms_key: str | None = None
    part_bytes: int = 8 << 20
    connect_timeout_s: float = 3
    read_timeout_s: float = 20
    attempts: int = 3

    def __post_init__(self) -> None:
        if self.encryption not in (None, "AES256", "aws:kms"):
            raise StorageError(f"encryption {self.encryption!r}: OBJECT_STORE_SSE is AES256 or aws:kms")
        if self.kms_key and self.encryption != "aws:kms":
            raise StorageError("OBJECT_STORE_KMS_KEY is used with OBJECT_STORE_SSE=aws:kms only: set both")
        if self.part_bytes < _SMALLEST_PART_BYTES:
            raise StorageError(f"part_bytes = {self.part_bytes}: S3 takes parts of 5 MiB ({5 << 20}) or more")

    @classmethod
    def from_environment(cls) -> S3Settings:
        """From OBJECT_STORE_ENDPOINT (boto3's AWS_ENDPOINT_URL without it), OBJECT_STORE_SSE, OBJECT_STORE_KMS_KEY."""
        return cls(
            endpoint=os.environ.get("OBJECT_STORE_ENDPOINT") or os.environ.get("AWS_ENDPOINT_URL") or None,
            encryption=os.environ.get("OBJECT_STORE_SSE") or None,
            kms_key=os.environ.get("OBJECT_STORE_KMS_KEY") or None,
        )

    @property
    def headers(self) -> dict[str, str]:
        """Encryption headers of an upload."""
        named = {"ServerSideEncryption": self.encryption, "SSEKMSKeyId": self.kms_key}
        return {name: value for name, value in named.items() if value}


class S3Store(ObjectStore):
    """Objects in a bucket, below `prefix`. `settings` come from the environment if none are given."""

    def __init__(self, bucket: str, prefix: str = "", settings: S3Settings | None = None) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.settings = settings or S3Settings.from_environment()
        # boto3's shared session may not be used by two threads at once, and keeps the first credentials it found.
        self._client = boto3.session.Session().client(
            "s3", endpoint_url=self.settings.endpoint, config=_client_config(self.settings)
        )
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
                with file.open("rb") as body:
                    self._client.put_object(Bucket=self.bucket, Key=name, Body=body, IfNoneMatch="*", **extra)
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
                    yield ObjectEntry(key, item["Size"], item["LastModified"].timestamp())
        except _ERRORS as error:
            raise self._error(prefix, error) from error

    def delete(self, key: str) -> None:
        try:
            self._client.delete_object(Bucket=self.bucket, Key=self.prefix + check_key(key))
        except _ERRORS as error:
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
            raise self._error("unfinished uploads", error) from error
        return count

    def _delete_batch(self, keys: list[str]) -> None:
        objects = [{"Key": self.prefix + check_key(key)} for key in keys]
        try:
            answer = self._client.delete_objects(
                Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True}
            )
        except _ERRORS as error:
            raise self._error(keys[0], error) from error
        for failed in answer.get("Errors", ()):
            if failed.get("Code") not in _ABSENT:
                raise StorageError(
                    f"{self}: {failed.get('Key')} was not removed: {failed.get('Message')}; check the bucket's policy"
                )

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


def _client_config(settings: S3Settings) -> Config:
    # Services other than Amazon's know no checksums behind the body, and no bucket names in host names.
    others = {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "s3": {"addressing_style": "path"},
    }
    return Config(
        signature_version="s3v4",
        connect_timeout=settings.connect_timeout_s,
        read_timeout=settings.read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": settings.attempts},
        max_pool_connections=_CONNECTIONS,
        **(others if settings.endpoint else {}),
    )


def _code(error: Exception) -> str | None:
    return error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else None

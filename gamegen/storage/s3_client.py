"""Clients of S3 services: Amazon's, and those that speak an older or a smaller S3."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from gamegen.storage.interface import PIECE_BYTES, StorageError

_SMALLEST_PART_BYTES = 5 << 20
_CONNECTIONS = 32
_AMAZON = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")
_WITH_MD5 = ("PutObject", "UploadPart", "DeleteObjects")


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


def connect(settings: S3Settings) -> Any:
    """A boto3 client that suits the service, which boto3's own variables and files may name too."""
    if settings.endpoint is None:
        client = _client(settings, _config(settings))
        if _is_amazon(client.meta.endpoint_url):
            return client
    # Services other than Amazon's know no checksums behind the body, and no bucket names in host names.
    client = _client(
        settings,
        _config(
            settings,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"},
        ),
    )
    if not _is_amazon(client.meta.endpoint_url):
        for operation in _WITH_MD5:
            client.meta.events.register(f"before-call.s3.{operation}", _send_md5)
    return client


def _client(settings: S3Settings, config: Config) -> Any:
    # boto3's shared session may not be used by two threads at once, and keeps the first credentials it found.
    return boto3.session.Session().client("s3", endpoint_url=settings.endpoint, config=config)


def _config(settings: S3Settings, **others: Any) -> Config:
    return Config(
        signature_version="s3v4",
        connect_timeout=settings.connect_timeout_s,
        read_timeout=settings.read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": settings.attempts},
        max_pool_connections=_CONNECTIONS,
        **others,
    )


def _is_amazon(endpoint: str) -> bool:
    return (urlsplit(endpoint).hostname or "").endswith(_AMAZON)


def _send_md5(params: dict[str, Any], **_: Any) -> None:
    """Content-MD5 in place of the CRC32 of newer services: some refuse to remove, or to store, without it."""
    params["headers"]["Content-MD5"] = base64.b64encode(_md5(params["body"])).decode()
    params["context"].pop("checksum", None)


def _md5(body: bytes | bytearray | IO[bytes]) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    if isinstance(body, bytes | bytearray):
        digest.update(body)
        return digest.digest()
    start = body.tell()
    while piece := body.read(PIECE_BYTES):
        digest.update(piece)
    body.seek(start)
    return digest.digest()

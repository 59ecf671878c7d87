"""S3 services that do less than Amazon's, or do it otherwise: moto's behind a gate that refuses what they refuse."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Environ = dict[str, Any]
Refusal = tuple[str, str]
"""Status line and code of an error."""

_BATCH = "delete"


def operation(environ: Environ) -> str:
    """The request's method, or `delete` for DeleteObjects."""
    names = [pair.split("=")[0] for pair in environ.get("QUERY_STRING", "").split("&")]
    return _BATCH if environ["REQUEST_METHOD"] == "POST" and _BATCH in names else environ["REQUEST_METHOD"]


def wants_md5(environ: Environ) -> Refusal | None:
    """Older MinIO, Ceph, OneFS, and buckets with object lock: no removal in batches, no upload without Content-MD5."""
    is_of_object = environ["PATH_INFO"].count("/") > 1
    needs_md5 = operation(environ) == _BATCH or (operation(environ) == "PUT" and is_of_object)
    has_md5 = environ.get("HTTP_CONTENT_MD5")
    return ("400 Bad Request", "MissingContentMD5") if needs_md5 and not has_md5 else None


def has_no_batches(environ: Environ) -> Refusal | None:
    """Google's interoperable API: a POST is a form's upload, and removing what is not there is an error."""
    return ("400 Bad Request", "InvalidArgument") if operation(environ) == _BATCH else None


def knows_no_batches(environ: Environ) -> Refusal | None:
    """Small servers."""
    return ("501 Not Implemented", "NotImplemented") if operation(environ) == _BATCH else None


def has_no_conditions(environ: Environ) -> Refusal | None:
    """Backblaze B2 and others."""
    return ("501 Not Implemented", "NotImplemented") if environ.get("HTTP_IF_NONE_MATCH") else None


def forgets_conditions(environ: Environ) -> Refusal | None:
    """Older Ceph and MinIO: the header is ignored."""
    environ.pop("HTTP_IF_NONE_MATCH", None)
    return None


def knows_no_checksums(environ: Environ) -> Refusal | None:
    """Services from before 2022: neither checksums behind the body nor in a header, and buckets in paths alone."""
    names = ("HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM", "HTTP_X_AMZ_CHECKSUM_CRC32", "HTTP_X_AMZ_TRAILER")
    if any(environ.get(name) for name in names) or "aws-chunked" in environ.get("HTTP_CONTENT_ENCODING", ""):
        return "400 Bad Request", "InvalidArgument"
    if not environ["HTTP_HOST"].startswith(("127.0.0.1", "localhost:")):
        return "400 Bad Request", "InvalidBucketName"
    return None


def lists_no_uploads(environ: Environ) -> Refusal | None:
    """Services that remove unfinished uploads by themselves."""
    is_listing = environ["REQUEST_METHOD"] == "GET" and "uploads" in environ.get("QUERY_STRING", "").split(
        "&"
    )
    return ("501 Not Implemented", "NotImplemented") if is_listing else None


def tells_of_absence(environ: Environ) -> Refusal | None:
    """Google's: a DELETE of what is not there is an error."""
    if environ["REQUEST_METHOD"] != "DELETE":
        return None
    from moto.s3.models import s3_backends

    bucket, _, key = environ["PATH_INFO"].lstrip("/").partition("/")
    found = s3_backends["123456789012"]["aws"].buckets[bucket].keys.get(unquote(key))
    return None if found else ("404 Not Found", "NoSuchKey")


GATES: dict[str, tuple[Callable[[Environ], Refusal | None], ...]] = {
    "Amazon's own": (),
    "wants Content-MD5": (wants_md5,),
    "has no batches": (has_no_batches, tells_of_absence),
    "knows no batches": (knows_no_batches,),
    "has no conditional writes": (has_no_conditions,),
    "ignores conditional writes": (forgets_conditions,),
    "knows no checksums": (knows_no_checksums,),
    "lists no uploads": (lists_no_uploads,),
    "does nothing of it": (
        wants_md5,
        knows_no_batches,
        has_no_conditions,
        knows_no_checksums,
        lists_no_uploads,
    ),
}
"""What each kind of service refuses."""


class Service:
    """A running service; `gates` may be changed between requests, `locked` keys are not removed."""

    def __init__(self) -> None:
        self.gates: Iterable[Callable[[Environ], Refusal | None]] = ()
        self.locked: frozenset[str] = frozenset()
        self.endpoint = ""
        self.removals: list[str] = []
        self._inner = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: Environ, start: Any) -> Iterable[bytes]:
        """A WSGI application."""
        asked = operation(environ)
        if asked in (_BATCH, "DELETE"):
            self.removals.append(asked)
        for gate in self.gates:
            if refusal := gate(environ):
                return _error(environ, start, *refusal)
        if asked == "DELETE" and environ["PATH_INFO"].split("/", 2)[2] in self.locked:
            return _error(environ, start, "403 Forbidden", "AccessDenied")
        if asked == _BATCH and self.locked:
            return self._remove_others(environ, start)
        return self._inner(environ, start)

    def _remove_others(self, environ: Environ, start: Any) -> Iterable[bytes]:
        """As with object lock: the answer names what stays, and the rest of the batch is removed."""
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])).decode()
        left = [key for key in self.locked if f"<Key>{key}</Key>" in body]
        for key in left:
            body = body.replace(f"<Object><Key>{key}</Key></Object>", "")
        if "<Object>" in body:
            data = body.encode()
            environ |= {"wsgi.input": io.BytesIO(data), "CONTENT_LENGTH": str(len(data))}
            list(self._inner(environ, lambda *_: None))
        errors = "".join(f"<Error><Key>{key}</Key><Code>AccessDenied</Code></Error>" for key in left)
        answer = f"<?xml version='1.0'?><DeleteResult>{errors}</DeleteResult>".encode()
        start("200 OK", [("Content-Type", "application/xml"), ("Content-Length", str(len(answer)))])
        return [answer]


@contextmanager
def running() -> Iterator[Service]:
    """Serves at a free port of this machine."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    service = Service()
    server = make_server("127.0.0.1", 0, service, threaded=True)
    service.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()


def _error(environ: Environ, start: Any, status: str, code: str) -> Iterable[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>refused</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

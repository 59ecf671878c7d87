"""Each kind of S3 service keeps the same contract, and what one object is refused holds up no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import pytest

from gamegen.storage.interface import ObjectStore
from gamegen.storage.objects import (
    NotRemovedError,
    ObjectExistsError,
    S3Settings,
    S3Store,
    StorageError,
    open_plain_store,
)
from tests.storage.other_services import GATES, Service, has_no_batches, knows_no_checksums, running

LARGE = bytes(range(251)) * 24_000
BUCKET = "worlds"


@pytest.fixture(scope="module")
def one_service() -> Iterator[Service]:
    with running() as service:
        yield service


@pytest.fixture
def service(one_service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service with an empty bucket, which refuses nothing yet and which the environment does not name."""
    one_service.gates, one_service.locked = (), frozenset()
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    httpx.post(f"{one_service.endpoint}/moto-api/reset").raise_for_status()
    boto3.client("s3", endpoint_url=one_service.endpoint).create_bucket(Bucket=BUCKET)
    one_service.removals.clear()
    return one_service


def store_of(service: Service, prefix: str = "production") -> S3Store:
    return S3Store(BUCKET, prefix, S3Settings(service.endpoint, part_bytes=5 << 20))


@pytest.mark.parametrize("kind", GATES)
def test_every_kind_of_service_keeps_the_contract(service: Service, kind: str, tmp_path: Path) -> None:
    service.gates = GATES[kind]
    check_contract(store_of(service), tmp_path, LARGE)


def check_contract(store: ObjectStore, folder: Path, data: bytes = b"small") -> None:
    (folder / "file").write_bytes(data)
    store.upload("models/nano/weights", folder / "file")
    assert store.size("models/nano/weights") == len(data)
    assert b"".join(store.read_range("models/nano/weights", 3)) == data[3:]
    store.write("models/nano/card", b"first", create=True)
    with pytest.raises(ObjectExistsError, match="models/nano/card is already"):
        store.write("models/nano/card", b"second", create=True)
    assert store.read("models/nano/card") == b"first"
    store.write("empty", b"")
    assert list(store.keys("")) == ["empty", "models/nano/card", "models/nano/weights"]
    store.delete("empty")
    store.delete("empty")
    assert store.delete_many(["models/nano/card", "models/none", "models/nano/weights"]) == 3
    assert not list(store.keys(""))
    assert store.remove_unfinished(older_s=0) == 0


@pytest.mark.parametrize("prefix", ["", "/a/b/", "ä +%20", "a#b?c=d", "a//b"])
def test_any_prefix_of_a_bucket_will_do(
    service: Service, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBJECT_STORE_ENDPOINT", service.endpoint)
    store = open_plain_store(f"s3://{BUCKET}/{prefix}")
    check_contract(store, tmp_path)
    store.write("x", b"1")
    client = boto3.client("s3", endpoint_url=service.endpoint)
    (stored,) = client.list_objects_v2(Bucket=BUCKET)["Contents"]
    assert stored["Key"] == "/".join(filter(None, (prefix.strip("/"), "x")))
    assert httpx.get(store.url("x", 60)).content == b"1"


@pytest.mark.parametrize("named", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_CONFIG_FILE"])
def test_a_service_is_treated_alike_however_boto3_is_told_of_it(
    service: Service, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.gates = (knows_no_checksums,)
    address = service.endpoint.replace("127.0.0.1", "localhost")
    if named == "AWS_CONFIG_FILE":
        (tmp_path / "config").write_text(f"[default]\nendpoint_url = {address}\n")
        address = str(tmp_path / "config")
    monkeypatch.setenv(named, address)
    check_contract(open_plain_store(f"s3://{BUCKET}"), tmp_path)


def test_amazon_is_told_by_its_address() -> None:
    store = S3Store(BUCKET, settings=S3Settings())
    assert store._client.meta.config.s3 is None
    given = S3Store(BUCKET, settings=S3Settings("https://s3.eu-central-1.amazonaws.com"))
    assert given._client.meta.config.s3 == {"addressing_style": "path"}


def test_a_service_without_batches_is_asked_for_one_once(service: Service) -> None:
    service.gates = (has_no_batches,)
    store = store_of(service)
    for _ in range(2):
        for name in ("a", "b"):
            store.write(name, b"x")
        assert store.delete_many(["a", "b"]) == 2
    assert service.removals == ["delete", *["DELETE"] * 4]


@pytest.mark.parametrize("gates", [(), (has_no_batches,)], ids=["in batches", "singly"])
def test_what_a_service_keeps_is_named_and_all_else_is_removed(
    service: Service, gates: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gamegen.storage.interface._BATCH", 3)
    service.gates, service.locked = gates, frozenset({"production/v1", "production/v8"})
    store = store_of(service)
    keys = [f"v{i}" for i in range(10)]
    for key in keys:
        store.write(key, b"x")
    with pytest.raises(NotRemovedError, match="2 of 10 objects were not removed from s3://worlds/") as caught:
        store.delete_many(keys)
    assert caught.value.keys == {"v1", "v8"}
    assert list(store.keys("")) == ["v1", "v8"]


def test_a_service_that_stops_to_answer_is_asked_no_more(service: Service) -> None:
    service.gates = (lambda _: ("503 Slow Down", "SlowDown"),)
    store = S3Store(BUCKET, settings=S3Settings(service.endpoint, attempts=1))
    with pytest.raises(StorageError, match="SlowDown"):
        store.delete_many([f"v{i}" for i in range(20)])
    assert service.removals == ["delete"]


def test_objects_of_others_are_not_seen(service: Service) -> None:
    store = store_of(service)
    client = boto3.client("s3", endpoint_url=service.endpoint)
    for name in ("videos/", "videos/a b.mp4", "videos/.DS_Store", "videos/ü", "videos//x", "videos/mine"):
        client.put_object(Bucket=BUCKET, Key=f"production/{name}", Body=b"x")
    assert list(store.keys("videos/")) == ["videos/mine"]
    assert store.delete_prefix("videos/") == 1
    assert len(client.list_objects_v2(Bucket=BUCKET)["Contents"]) == 5

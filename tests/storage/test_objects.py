"""Both stores keep one contract, over a real folder and a real S3 API."""

import pytest

from gamegen.storage.interface import MissingStoreError
from gamegen.storage.objects import (
    LocalStore,
    ObjectExistsError,
    ObjectNotFoundError,
    S3Store,
    StorageError,
    open_plain_store,
)


def test_what_is_stored_comes_back(store, tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) * 50_000)
    store.upload("models/nano/1/weights", tmp_path / "file")
    store.download("models/nano/1/weights", tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == (tmp_path / "file").read_bytes()
    store.write("models/nano/1/card", b"{}")
    store.write("models/nano/1/card", b"later")
    assert store.read("models/nano/1/card") == b"later"


def test_creating_refuses_a_key_that_is_taken(store):
    store.write("a/b", b"first", create=True)
    with pytest.raises(ObjectExistsError, match="a/b"):
        store.write("a/b", b"second", create=True)
    assert store.read("a/b") == b"first"


def test_keys_are_listed_below_a_prefix(store):
    for key in ("m/b/2", "m/a/1", "n/1"):
        store.write(key, b"x")
    assert list(store.keys("m/")) == ["m/a/1", "m/b/2"]
    store.delete("m/a/1")
    store.delete("m/a/1")
    assert list(store.keys("m/")) == ["m/b/2"]


def test_an_absent_object_is_named(store, tmp_path):
    with pytest.raises(ObjectNotFoundError, match="models/none"):
        store.download("models/none", tmp_path / "x")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../up", "a//b", "a/../b", "a b", "a/.hidden", "x" * 600])
def test_keys_cannot_leave_the_store(store, key):
    with pytest.raises(StorageError, match="is not a valid key"):
        store.write(key, b"")


def test_an_unreachable_service_says_what_to_check(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
        S3Store("worlds").download("a", tmp_path / "a")


def test_a_bucket_that_does_not_exist_is_an_error(s3_bucket):
    with pytest.raises(MissingStoreError, match="there is no bucket 'nowhere': create it"):
        list(S3Store("nowhere").keys(""))


def test_stores_by_address(s3_bucket, tmp_path):
    assert isinstance(open_plain_store(str(tmp_path)), LocalStore)
    assert repr(open_plain_store("s3://worlds/some/prefix")) == "s3://worlds/some/prefix/"
    for url in ("https://example.org/x", "s3:///x"):
        with pytest.raises(StorageError, match="s3://bucket/prefix"):
            open_plain_store(url)

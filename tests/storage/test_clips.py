"""What clips need of a store: sizes, ranges, listings, removal, and nothing by halves."""

import base64
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gamegen.storage import encryption
from gamegen.storage.encryption import EncryptedStore
from gamegen.storage.objects import (
    LocalStore,
    ObjectNotFoundError,
    S3Settings,
    S3Store,
    StorageError,
)
from gamegen.storage.store_keys import StoreKeys

DATA = bytes(i % 251 for i in range(3000))


@pytest.fixture(params=["plain", "sealed"])
def any_store(request, store, monkeypatch):
    """Each kind of store, and each with its objects sealed in small blocks."""
    monkeypatch.setattr(encryption, "BLOCK_BYTES", 256)
    return EncryptedStore(store, StoreKeys(bytes(32))) if request.param == "sealed" else store


def test_sizes_and_ranges(any_store):
    any_store.write("videos/v1/clip.mp4", DATA)
    assert any_store.size("videos/v1/clip.mp4") == 3000
    for start, stop in ((0, None), (0, 1), (255, 257), (1000, 1001), (2999, None), (2990, 9000), (0, 3000)):
        assert b"".join(any_store.read_range("videos/v1/clip.mp4", start, stop)) == DATA[start:stop]
    any_store.write("empty", b"")
    assert any_store.size("empty") == 0 and not b"".join(any_store.read_range("empty"))


@pytest.mark.parametrize(("start", "stop"), [(3000, None), (5000, 6000), (-1, 5), (7, 7), (9, 3)])
def test_ranges_that_are_none_are_errors_at_once(any_store, start, stop):
    any_store.write("a", DATA)
    with pytest.raises(StorageError, match="byte"):
        any_store.read_range("a", start, stop)


def test_what_is_not_there_has_no_size_and_no_range(any_store):
    for call in (any_store.size, any_store.read_range):
        with pytest.raises(ObjectNotFoundError, match="videos/none"):
            call("videos/none")


def test_pieces_are_bounded(store):
    store.write("large", bytes(3 << 20))
    assert all(len(piece) <= 1 << 20 for piece in store.read_range("large"))


def test_a_changed_block_is_noticed_in_a_range(store, monkeypatch):
    monkeypatch.setattr(encryption, "BLOCK_BYTES", 256)
    sealed = EncryptedStore(store, StoreKeys(bytes(32)))
    sealed.write("a", DATA)
    stored = bytearray(store.read("a"))
    stored[11 + 2 * 272 + 5] ^= 1
    store.write("a", bytes(stored))
    assert b"".join(sealed.read_range("a", 0, 512)) == DATA[:512]
    with pytest.raises(StorageError, match="cannot be opened"):
        b"".join(sealed.read_range("a", 500, 600))


def test_listings_say_size_and_time(any_store):
    before = time.time()
    any_store.write("videos/v1/clip.mp4", DATA)
    any_store.write("videos/v10/clip.mp4", b"")
    first, second = any_store.entries("videos/")
    assert (first.key, first.size_bytes, second.size_bytes) == ("videos/v1/clip.mp4", 3000, 0)
    # A service tells whole seconds.
    assert before - 2 < first.modified_at < time.time() + 2
    assert [entry.key for entry in any_store.entries("videos/v1/")] == ["videos/v1/clip.mp4"]


def test_many_go_at_once(any_store):
    keys = [f"videos/v{i}/clip.mp4" for i in range(5)]
    for key in keys:
        any_store.write(key, b"x")
    assert any_store.delete_many([*keys[:2], "videos/none"]) == 3
    assert list(any_store.keys("")) == keys[2:]
    assert any_store.delete_prefix("videos/v3/") == 1
    assert any_store.delete_prefix("videos/") == 2
    assert not list(any_store.keys(""))


@pytest.mark.parametrize("prefix", ["", "/", "videos", "../x/"])
def test_a_prefix_to_remove_is_a_folder_inside(any_store, prefix):
    any_store.write("videos/v1/clip.mp4", b"x")
    with pytest.raises(StorageError):
        any_store.delete_prefix(prefix)
    assert list(any_store.keys(""))


def test_a_listing_stays_inside_its_folder(tmp_path):
    with pytest.raises(StorageError, match="leaves the store"):
        list(LocalStore(tmp_path).keys("../other/"))


def test_folders_go_with_their_last_object(tmp_path):
    store = LocalStore(tmp_path / "store")
    store.write("videos/v1/clip.mp4", b"x")
    store.delete("videos/v1/clip.mp4")
    assert not list((tmp_path / "store").iterdir())
    store.write("videos/v1/clip.mp4", b"x")


def test_a_folder_is_listed_while_others_write_and_remove(tmp_path):
    store, stop = LocalStore(tmp_path), threading.Event()
    store.write("videos/stays/clip.mp4", b"x")

    def busy(number):
        while not stop.is_set():
            store.write(f"videos/v{number}/a/b/clip.mp4", b"x")
            store.delete(f"videos/v{number}/a/b/clip.mp4")

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(busy, number % 2) for number in range(4)]
        try:
            for _ in range(300):
                assert "videos/stays/clip.mp4" in set(store.keys("videos/"))
                assert store.remove_unfinished(older_s=3600) == 0
        finally:
            stop.set()
        for worker in working:
            worker.result()


def test_a_folder_has_no_addresses_and_a_bucket_does(store, monkeypatch):
    address = store.url("videos/v1/clip.mp4", 60, 'my "clip"\r\n.mp4', "video/mp4")
    if isinstance(store, LocalStore):
        assert address is None
        return
    assert "X-Amz-Signature=" in address and "%0D" not in address and "%5C" not in address
    for seconds in (0, 8 * 24 * 3600):
        with pytest.raises(StorageError, match="604800"):
            store.url("a", seconds)
    assert EncryptedStore(store, StoreKeys(bytes(32))).url("a", 60) is None


def test_objects_in_a_bucket_say_what_they_are(s3_bucket):
    store = S3Store(s3_bucket, "gamegen", S3Settings(S3Settings.from_environment().endpoint, "AES256"))
    for key, kind, said in (
        ("clip.mp4", None, "video/mp4"),
        ("thumbnail.jpg", None, "image/jpeg"),
        ("x", None, "application/octet-stream"),
        ("inputs/abc", "image/png", "image/png"),
    ):
        store.write(key, b"x", content_type=kind)
        head = store._client.head_object(Bucket=s3_bucket, Key=f"gamegen/{key}")
        assert head["ContentType"] == said and head["ServerSideEncryption"] == "AES256"


def test_encryption_by_the_service_is_set_by_the_environment(s3_bucket, monkeypatch):
    monkeypatch.setenv("OBJECT_STORE_SSE", "aws:kms")
    monkeypatch.setenv("OBJECT_STORE_KMS_KEY", "my-key")
    store = S3Store(s3_bucket)
    store.write("a", b"x", create=True)
    head = store._client.head_object(Bucket=s3_bucket, Key="a")
    assert head["ServerSideEncryption"] == "aws:kms" and head["SSEKMSKeyId"].endswith("my-key")
    monkeypatch.setenv("OBJECT_STORE_SSE", "rot13")
    with pytest.raises(StorageError, match="AES256 or aws:kms"):
        S3Store(s3_bucket)
    monkeypatch.setenv("OBJECT_STORE_SSE", "AES256")
    with pytest.raises(StorageError, match="set both"):
        S3Store(s3_bucket)


def test_a_file_that_ends_in_the_middle_leaves_nothing(s3_bucket, tmp_path, monkeypatch):
    store = S3Store(
        s3_bucket, settings=S3Settings(S3Settings.from_environment().endpoint, part_bytes=5 << 20)
    )
    (tmp_path / "file").write_bytes(bytes(11 << 20))
    real = store._client.upload_part
    calls = []

    def fails_later(**arguments):
        calls.append(arguments)
        if len(calls) > 1:
            raise ConnectionError("the line was cut")
        return real(**arguments)

    monkeypatch.setattr(store._client, "upload_part", fails_later)
    with pytest.raises((StorageError, ConnectionError)):
        store.upload("videos/v1/clip.mp4", tmp_path / "file")
    assert not list(store.keys(""))
    assert not store._client.list_multipart_uploads(Bucket=s3_bucket).get("Uploads")


def test_a_process_that_is_killed_leaves_no_object(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    code = (
        "import sys; from pathlib import Path; from gamegen.storage.local import LocalStore\n"
        "LocalStore(Path(sys.argv[1])).upload('a/b', Path(sys.argv[2]))"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "store"), str(tmp_path / "pipe")]
    with subprocess.Popen(arguments) as process, (tmp_path / "pipe").open("wb") as pipe:
        pipe.write(bytes(4 << 20))
        pipe.flush()
        process.kill()
    store = LocalStore(tmp_path / "store")
    assert not list(store.keys(""))
    assert store.remove_unfinished(older_s=3600) == 0
    assert store.remove_unfinished(older_s=0) == 1
    assert not [file for file in (tmp_path / "store").rglob("*") if file.is_file()]


def test_a_dead_service_is_an_error_soon(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    store = S3Store("worlds", settings=S3Settings("http://127.0.0.1:9", attempts=1))
    for call in (lambda: store.size("a"), lambda: list(store.keys("")), lambda: store.remove_unfinished(0)):
        with pytest.raises(StorageError, match="OBJECT_STORE_ENDPOINT"):
            call()


def test_a_silent_service_is_an_error_too(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = S3Store("worlds", settings=S3Settings(endpoint, read_timeout_s=0.2, attempts=1))
        with pytest.raises(StorageError, match="OBJECT_STORE_ENDPOINT"):
            store.read_range("videos/v1/clip.mp4")


def test_a_sealed_store_is_opened_by_address(tmp_path, monkeypatch):
    monkeypatch.setenv("GAMEGEN_STORE_KEY", base64.b64encode(bytes(32)).decode())
    store = encryption.open_store(str(tmp_path))
    store.write("a", b"secret")
    assert b"secret" not in (tmp_path / "a").read_bytes() and list(store.keys("")) == ["a"]

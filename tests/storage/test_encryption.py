"""Sealed objects come back the same, and any change to them is noticed."""

import base64

import pytest

from gamegen.storage import encryption
from gamegen.storage.encryption import BLOCK_BYTES, EncryptedStore, key_from_environment
from gamegen.storage.objects import StorageError

KEY = bytes(range(32))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(encryption, "BLOCK_BYTES", 64)


@pytest.mark.parametrize("size_bytes", [0, 1, 63, 64, 65, 1000])
def test_round_trip_at_every_edge_of_a_block(store, small_blocks, size_bytes):
    data = bytes(i % 251 for i in range(size_bytes))
    EncryptedStore(store, KEY).write("m/1", data)
    assert EncryptedStore(store, KEY).read("m/1") == data
    assert size_bytes < 8 or data not in store.read("m/1")


def test_two_seals_of_the_same_bytes_differ(store):
    sealed = EncryptedStore(store, KEY)
    sealed.write("a", b"same")
    sealed.write("b", b"same")
    assert store.read("a")[11:] != store.read("b")[11:]


@pytest.mark.parametrize(
    "change",
    [
        lambda sealed: sealed[:20] + bytes([sealed[20] ^ 1]) + sealed[21:],
        lambda sealed: sealed[: 11 + 80],
        lambda sealed: sealed[:11] + sealed[11 + 80 :],
        lambda sealed: sealed[:11] + sealed[11 + 80 : 11 + 160] + sealed[11 : 11 + 80] + sealed[11 + 160 :],
        lambda sealed: sealed[:11],
    ],
    ids=["bit", "end dropped", "beginning dropped", "blocks swapped", "empty"],
)
def test_any_change_is_noticed(store, small_blocks, change, tmp_path):
    EncryptedStore(store, KEY).write("m/1", b"world" * 60)
    store.write("m/1", change(store.read("m/1")))
    with pytest.raises(StorageError, match="cannot be opened"):
        EncryptedStore(store, KEY).download("m/1", tmp_path / "out")
    assert not (tmp_path / "out").read_bytes()


def test_one_object_cannot_pass_for_another(store):
    EncryptedStore(store, KEY).write("m/1", b"old")
    store.write("m/2", store.read("m/1"))
    with pytest.raises(StorageError, match="m/2"):
        EncryptedStore(store, KEY).read("m/2")


def test_a_wrong_key_and_a_plain_object_are_told_apart(store):
    EncryptedStore(store, KEY).write("m/1", b"sealed")
    store.write("m/2", b"a plain object")
    with pytest.raises(StorageError, match="not the key"):
        EncryptedStore(store, bytes(32)).read("m/1")
    with pytest.raises(StorageError, match="not encrypted"):
        EncryptedStore(store, KEY).read("m/2")


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("GAMEGEN_STORE_KEY", raising=False)
    assert key_from_environment() is None
    monkeypatch.setenv("GAMEGEN_STORE_KEY", base64.b64encode(KEY).decode())
    assert key_from_environment() == KEY
    for bad in ("short", base64.b64encode(b"short").decode()):
        monkeypatch.setenv("GAMEGEN_STORE_KEY", bad)
        with pytest.raises(StorageError, match="openssl rand"):
            key_from_environment()


def test_blocks_bound_memory():
    assert BLOCK_BYTES <= 16 << 20

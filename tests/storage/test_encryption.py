"""Sealed objects come back the same, and any change to them is noticed."""

import base64

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gamegen.storage import encryption
from gamegen.storage.encryption import BLOCK_BYTES, EncryptedStore, open_store
from gamegen.storage.objects import LocalStore, StorageError
from gamegen.storage.rotation import KeyRotation, rotate_keys
from gamegen.storage.store_keys import StoreKeys

KEY = StoreKeys(bytes(range(32)))
OTHER = StoreKeys(bytes(32))


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
        EncryptedStore(store, OTHER).read("m/1")
    with pytest.raises(StorageError, match="not encrypted"):
        EncryptedStore(store, KEY).read("m/2")


def encoded(keys: StoreKeys) -> str:
    return base64.b64encode(keys.newest).decode()


def test_the_keys_come_from_the_environment(monkeypatch, tmp_path):
    for name in ("GAMEGEN_STORE_KEY", "GAMEGEN_STORE_OLD_KEYS"):
        monkeypatch.delenv(name, raising=False)
    assert StoreKeys.from_environment() is None
    assert isinstance(open_store(str(tmp_path)), LocalStore)
    monkeypatch.setenv("GAMEGEN_STORE_OLD_KEYS", encoded(OTHER))
    with pytest.raises(StorageError, match="set the key to seal with"):
        StoreKeys.from_environment()
    monkeypatch.setenv("GAMEGEN_STORE_KEY", encoded(KEY))
    assert StoreKeys.from_environment() == StoreKeys(KEY.newest, (OTHER.newest,))
    store = open_store(str(tmp_path))
    store.write("a", b"words")
    assert b"words" not in (tmp_path / "a").read_bytes() and store.read("a") == b"words"
    for bad in ("short", base64.b64encode(b"short").decode()):
        monkeypatch.setenv("GAMEGEN_STORE_KEY", bad)
        with pytest.raises(StorageError, match="openssl rand"):
            StoreKeys.from_environment()


def test_each_object_has_a_key_of_its_own(store):
    """Neither the master key nor another object's opens it."""
    EncryptedStore(store, KEY).write("m/1", b"words")
    sealed = store.read("m/1")
    with pytest.raises(StorageError, match="cannot be opened"):
        # As the first format would read it.
        store.write("m/1", b"GGS1" + sealed[4:])
        EncryptedStore(store, KEY).read("m/1")


def sealed_as_before(name: str, data: bytes, key: bytes, block_bytes: int = 64) -> bytes:
    """What the first version of the format wrote."""
    blocks = [data[i : i + block_bytes] for i in range(0, len(data), block_bytes)] or [b""]
    prefix = b"1234567"
    nonces = [
        prefix + number.to_bytes(4) + bytes([number == len(blocks) - 1]) for number in range(len(blocks))
    ]
    return (
        b"GGS1"
        + prefix
        + b"".join(
            AESGCM(key).encrypt(nonce, block, name.encode())
            for nonce, block in zip(nonces, blocks, strict=True)
        )
    )


def test_a_rotation_leaves_everything_readable_by_the_new_key_alone(store, small_blocks):
    before = EncryptedStore(store, OTHER)
    before.write("m/1", b"sealed with the old key" * 9)
    store.write("m/2", b"stored in the clear")
    store.write("m/3", sealed_as_before("m/3", b"in the first format" * 9, OTHER.newest))
    both = EncryptedStore(store, StoreKeys(KEY.newest, (OTHER.newest,)))
    both.write("m/4", b"sealed with the new key")
    assert both.read("m/1") == b"sealed with the old key" * 9
    assert both.read("m/3") == b"in the first format" * 9
    assert b"".join(both.read_range("m/3", 60, 70)) == (b"in the first format" * 9)[60:70]
    with pytest.raises(StorageError, match="OLD_KEYS"):
        EncryptedStore(store, KEY).read("m/1")
    with pytest.raises(StorageError, match="storage rotate"):
        both.read("m/2")
    counted = []
    assert rotate_keys(both, counted.append) == KeyRotation(resealed=2, newly_sealed=1, unchanged=1)
    assert counted == [1, 2, 3, 4]
    alone = EncryptedStore(store, KEY)
    assert [alone.read(f"m/{i}")[:6] for i in (1, 2, 3, 4)] == [b"sealed", b"stored", b"in the", b"sealed"]
    assert {entry.key: entry.size_bytes for entry in alone.entries("m/")}["m/2"] == len(
        b"stored in the clear"
    )
    assert rotate_keys(alone) == KeyRotation(resealed=0, newly_sealed=0, unchanged=4)


def test_a_rotation_without_the_old_key_says_so_and_changes_nothing(store):
    EncryptedStore(store, OTHER).write("m/1", b"words")
    sealed = store.read("m/1")
    with pytest.raises(
        StorageError, match=r"m/1 .* is sealed with the key .* name it in GAMEGEN_STORE_OLD_KEYS"
    ):
        rotate_keys(EncryptedStore(store, KEY))
    assert store.read("m/1") == sealed


def test_blocks_bound_memory():
    assert BLOCK_BYTES <= 16 << 20

"""Backed up, wiped and brought back: every row and object is as it was, or nothing is written."""

import base64
import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import insert, select, text

from gamegen.service.backup.backup import backup
from gamegen.service.backup.backup_manifest import BackupError, read_manifest, write_manifest
from gamegen.service.backup.restore import check, restore
from gamegen.service.database import schema
from gamegen.service.database.connection import connect_blocking
from gamegen.service.database.tables import (
    accounts,
    checkpoints,
    credits_ledger,
    events,
    metadata,
    safety_audit,
    tiers,
)
from gamegen.storage.encryption import EncryptedStore, open_store
from gamegen.storage.objects import LocalStore
from gamegen.storage.store_keys import StoreKeys
from tests.databases import insert_orders, order_row

PROMPT = 'snow\t"and"\\n\\N; \u2603 \U0001f30a\nnew line'
CLIP = bytes(range(256)) * 8000


def silent(what, done, total):
    """No progress bar."""


@pytest.fixture
def objects(tmp_path):
    return LocalStore(tmp_path / "objects")


@pytest.fixture
def target(tmp_path):
    return LocalStore(tmp_path / "backups")


@pytest.fixture
def filled_url(database_url, objects):
    """A database with something in most tables, and the objects of it."""
    image = hashlib.sha256(b"picture").hexdigest()
    done = order_row("done", state="COMPLETED", content_key="videos/done/clip.mp4", step_ms=1 / 3, rank=0.1)
    done |= {"content_bytes": len(CLIP), "content_sha256": hashlib.sha256(CLIP).hexdigest()}
    done |= {"thumbnail_key": "videos/done/thumbnail.jpg", "finished_at": datetime.now(UTC)}
    working = order_row("working", state="GENERATING")
    working["order"] |= {"prompt": PROMPT, "image_key": f"inputs/{image}"}
    objects.write("videos/done/clip.mp4", CLIP)
    objects.write("videos/done/thumbnail.jpg", b"thumbnail")
    objects.write("videos/working/checkpoints/4.safetensors", b"checkpoint")
    objects.write(f"inputs/{image}", b"picture")
    objects.write("models/nano/1/card.json", b"not ours")
    expired = order_row(
        "expired", state="COMPLETED", expired_at=datetime.now(UTC), content_key="videos/e/c.mp4"
    )
    engine = connect_blocking(database_url)
    with engine.begin() as connection:
        insert_orders(connection, done, working, expired)
        key = "videos/working/checkpoints/4.safetensors"
        step = {"generation_id": "working", "step": 4, "fence": 1, "key": key, "size_bytes": 10}
        connection.execute(insert(checkpoints), step)
        connection.execute(insert(accounts), {"id": "local", "balance_millicredits": 5})
        entry = {"account": "local", "generation_id": "done", "kind": "grant", "millicredits": 9}
        connection.execute(insert(credits_ledger), entry)
        verdict = {"subject": "prompt", "checker": "words", "score": 0.1 + 0.2, "threshold": 1e-300}
        connection.execute(insert(safety_audit), verdict | {"generation_id": "done", "is_allowed": True})
        connection.execute(insert(tiers), {"name": "standard", "pass": 3.5})
        event = {
            "generation_id": "done",
            "kind": "state",
            "state": "COMPLETED",
            "fence": 2,
            "data": {"a": [1]},
        }
        connection.execute(insert(events), [event] * 5)
    engine.dispose()
    return database_url


def rows_of(url):
    """Every row of every table."""
    engine = connect_blocking(url)
    with engine.connect() as connection:
        found = {
            table.name: connection.execute(select(table).order_by(*table.primary_key)).all()
            for table in metadata.sorted_tables
        }
    engine.dispose()
    return found


def contents_of(store):
    return {key: store.read(key) for key in store.keys("")}


def needed(objects):
    return {key: data for key, data in contents_of(objects).items() if not key.startswith("models/")}


def test_what_is_brought_back_is_what_was_saved(filled_url, empty_database_url, objects, target, tmp_path):
    name, manifest = backup(filled_url, objects, target, silent)
    assert (manifest.num_rows, manifest.num_objects, manifest.num_lost) == (13, 4, 0)
    other = LocalStore(tmp_path / "other")
    assert restore(target, None, empty_database_url, other, silent)[0] == name
    assert rows_of(empty_database_url) == rows_of(filled_url)
    assert contents_of(other) == needed(objects)
    assert schema.current(empty_database_url) == schema.revisions()[-1]


def test_numbers_go_on_where_they_were(filled_url, empty_database_url, objects, target):
    backup(filled_url, objects, target, silent)
    restore(target, None, empty_database_url, objects, silent)
    engine = connect_blocking(empty_database_url)
    with engine.begin() as connection:
        row = {"generation_id": "done", "kind": "state", "state": "COMPLETED", "fence": 2, "data": {}}
        assert connection.scalar(insert(events).values(row).returning(events.c.id)) == 6
    engine.dispose()


def test_to_an_older_postgresql_and_back(
    older_url, filled_url, empty_database_url, objects, target, tmp_path
):
    newer = backup(filled_url, objects, target, silent)[1].server_version
    restore(target, None, older_url, objects, silent)
    assert rows_of(older_url) == rows_of(filled_url)
    again = LocalStore(tmp_path / "again")
    older = backup(older_url, objects, again, silent)[1].server_version
    restore(again, None, empty_database_url, objects, silent)
    assert rows_of(empty_database_url) == rows_of(filled_url)
    assert int(older.partition(".")[0]) < int(newer.partition(".")[0])


def test_into_buckets_and_sealed(filled_url, empty_database_url, objects, store, tmp_path):
    sealed = EncryptedStore(store, StoreKeys(bytes(32)))
    backup(filled_url, objects, sealed, silent)
    assert not any(b"snow" in data or b"thumbnail" in data for data in contents_of(store).values())
    other = LocalStore(tmp_path / "other")
    restore(sealed, None, empty_database_url, other, silent)
    assert rows_of(empty_database_url) == rows_of(filled_url) and contents_of(other) == needed(objects)


def test_a_second_backup_saves_what_is_new(filled_url, objects, target, monkeypatch):
    first, _ = backup(filled_url, objects, target, silent)
    before = set(target.keys("blobs/"))
    read = []
    real = LocalStore.download
    monkeypatch.setattr(
        LocalStore, "download", lambda self, key, file: (read.append(key), real(self, key, file))
    )
    second, _ = backup(filled_url, objects, target, silent)
    assert set(target.keys("blobs/")) == before and second > first
    # A clip that is saved already, and what was uploaded by its users, is not even read.
    assert sorted(read) == ["videos/done/thumbnail.jpg", "videos/working/checkpoints/4.safetensors"]
    assert read_manifest(target)[0] == second and read_manifest(target, first)[0] == first


def test_empty_tables_may_be_there_already(filled_url, empty_database_url, objects, target):
    backup(filled_url, objects, target, silent)
    schema.upgrade(empty_database_url)
    engine = connect_blocking(empty_database_url)
    with engine.begin() as connection:
        # As a server that was started on it writes them.
        connection.execute(insert(tiers), {"name": "standard", "pass": 0.0})
    engine.dispose()
    restore(target, None, empty_database_url, objects, silent)
    assert rows_of(empty_database_url) == rows_of(filled_url)


@pytest.mark.parametrize("change", [{"schema_revision": "9999"}, {"format": 2}])
def test_a_backup_of_a_newer_program_is_refused(filled_url, empty_database_url, objects, target, change):
    name, manifest = backup(filled_url, objects, target, silent)
    target.delete(f"backups/{name}.json")
    write_manifest(target, name, replace(manifest, **change))
    with pytest.raises(BackupError, match="use a newer"):
        restore(target, None, empty_database_url, objects, silent)


@pytest.mark.parametrize("what", ["objects", "tables", "missing", "manifest"])
def test_damage_is_noticed_before_anything_is_written(
    filled_url, empty_database_url, objects, target, tmp_path, what
):
    name, manifest = backup(filled_url, objects, target, silent)
    blob = (
        manifest.tables[1].parts[0].key
        if what == "tables"
        else f"blobs/{hashlib.sha256(CLIP).hexdigest()[:2]}/"
    )
    key = f"backups/{name}.json" if what == "manifest" else next(target.keys(blob))
    data = bytearray(target.read(key))
    data[len(data) // 2] ^= 1
    if what == "missing":
        target.delete(key)
    else:
        target.write(key, bytes(data))
    other = LocalStore(tmp_path / "other")
    with pytest.raises(BackupError, match="damaged"):
        restore(target, None, empty_database_url, other, silent)
    with pytest.raises(BackupError, match="damaged"):
        check(target, None, silent)
    assert schema.current(empty_database_url) is None and not list(other.keys(""))


def test_a_database_with_rows_is_refused(filled_url, objects, target):
    backup(filled_url, objects, target, silent)
    before = rows_of(filled_url)
    with pytest.raises(BackupError, match="not empty"):
        restore(target, None, filled_url, objects, silent)
    assert rows_of(filled_url) == before


def test_a_restore_that_was_broken_off_goes_on(
    filled_url, empty_database_url, objects, target, tmp_path, monkeypatch
):
    backup(filled_url, objects, target, silent)
    other = LocalStore(tmp_path / "other")

    def breaks(what, done, total):
        if what == "tables" and done == 2:
            raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        restore(target, None, empty_database_url, other, breaks)
    assert not any(rows_of(empty_database_url).values())
    uploads = []
    monkeypatch.setattr(LocalStore, "upload", lambda *arguments: uploads.append(arguments))
    restore(target, None, empty_database_url, other, silent)
    assert not uploads and rows_of(empty_database_url) == rows_of(filled_url)


def test_a_backup_that_was_broken_off_is_none_and_goes_on(filled_url, objects, target):
    def breaks(what, done, total):
        if what == "objects" and done == 2:
            raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        backup(filled_url, objects, target, breaks)
    with pytest.raises(BackupError, match="no backup"):
        read_manifest(target)
    assert backup(filled_url, objects, target, silent)[1].num_objects == 4


def test_objects_that_are_gone_or_changed_are_told(filled_url, objects, target, empty_database_url, tmp_path):
    objects.delete("videos/done/thumbnail.jpg")
    objects.write("videos/done/clip.mp4", CLIP[:-1] + b"?")
    _, manifest = backup(filled_url, objects, target, silent)
    assert manifest.lost == ("videos/done/clip.mp4", "videos/done/thumbnail.jpg")
    assert (
        restore(target, None, empty_database_url, LocalStore(tmp_path / "other"), silent)[1].num_objects == 2
    )


def test_the_backup_is_of_one_moment(filled_url, empty_database_url, objects, target):
    engine = connect_blocking(filled_url)

    def meanwhile(what, done, total):
        if what == "tables" and done == 3:
            with engine.begin() as connection:
                insert_orders(connection, order_row("later"))
                connection.execute(text("delete from events"))

    backup(filled_url, objects, target, meanwhile)
    engine.dispose()
    restore(target, None, empty_database_url, objects, silent)
    rows = rows_of(empty_database_url)
    assert len(rows["events"]) == 5 and "later" not in [row.id for row in rows["generations"]]


def test_a_database_without_tables_has_nothing_to_save(empty_database_url, objects, target):
    with pytest.raises(ValueError, match="schema none"):
        backup(empty_database_url, objects, target, silent)
    with pytest.raises(BackupError, match="gamegen backup"):
        restore(target, None, empty_database_url, objects, silent)


def test_as_commands(gamegen, filled_url, empty_database_url, tmp_path):
    folder, store = str(tmp_path / "backups"), str(tmp_path / "objects")
    done = gamegen("backup", folder, "--database", filled_url, "--store", store)
    assert done.returncode == 0 and "13 rows and 4 objects" in done.stdout, done.stderr
    assert "is whole" in gamegen("restore", folder, "--check").stdout
    done = gamegen("restore", folder, "--database", empty_database_url, "--store", str(tmp_path / "other"))
    assert done.returncode == 0 and "is back: 13 rows and 4 objects" in done.stdout, done.stderr
    again = gamegen("restore", folder, "--database", empty_database_url, "--store", store)
    assert again.returncode == 2 and "not empty" in again.stderr
    unknown = gamegen("restore", folder, "--name", "yesterday", "--check")
    assert unknown.returncode == 2 and "there are: 20" in unknown.stderr
    dead = gamegen("backup", folder, "--database", "postgresql://127.0.0.1:9/none", "--store", store)
    assert dead.returncode == 2 and "DATABASE_URL" in dead.stderr


def test_with_a_key_from_the_store_to_the_restored_one(
    gamegen, filled_url, objects, empty_database_url, tmp_path, monkeypatch
):
    """What was stored in the clear is sealed first; then backup, another rotation and restore know the keys alone."""
    first, second = (base64.b64encode(bytes([i]) * 32).decode() for i in (1, 2))
    place = (str(tmp_path / "objects"), "--database", filled_url)
    monkeypatch.setenv("GAMEGEN_STORE_KEY", first)
    backup_folder = str(tmp_path / "backups")
    early = gamegen("backup", backup_folder, "--database", filled_url, "--store", place[0])
    assert early.returncode == 2 and "storage rotate" in early.stderr
    done = gamegen("storage", "rotate", *place)
    assert done.returncode == 0 and "5 sealed for the first time" in done.stdout, done.stderr
    assert not any(b"picture" in data or b"thumbnail" in data for data in contents_of(objects).values())
    done = gamegen("backup", backup_folder, "--database", filled_url, "--store", place[0])
    assert done.returncode == 0 and "13 rows and 4 objects" in done.stdout, done.stderr
    monkeypatch.setenv("GAMEGEN_STORE_OLD_KEYS", first)
    monkeypatch.setenv("GAMEGEN_STORE_KEY", second)
    assert "5 objects sealed anew" in gamegen("storage", "rotate", *place).stdout
    assert gamegen("storage", "rotate", backup_folder, "--objects-only").returncode == 0
    monkeypatch.delenv("GAMEGEN_STORE_OLD_KEYS")
    other = str(tmp_path / "other")
    done = gamegen("restore", backup_folder, "--database", empty_database_url, "--store", other)
    assert done.returncode == 0 and "is back" in done.stdout, done.stderr
    assert rows_of(empty_database_url) == rows_of(filled_url)
    assert open_store(other).read("videos/done/clip.mp4") == CLIP
    monkeypatch.delenv("GAMEGEN_STORE_KEY")
    assert "openssl rand" in gamegen("storage", "rotate", *place).stderr

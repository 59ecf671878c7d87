"""Signed addresses and credentials, at a service that checks them."""

import time

import httpx
import pytest

from gamegen.storage.objects import ObjectNotFoundError, S3Settings, S3Store, StorageError

CLIP = bytes(range(256)) * 40


@pytest.fixture
def address(signing_store):
    signing_store.write("videos/v1/clip.mp4", CLIP)
    return signing_store.url("videos/v1/clip.mp4", 60, "a clip.mp4", "video/mp4")


def test_whoever_has_the_address_gets_the_object(address):
    whole = httpx.get(address)
    assert whole.status_code == 200 and whole.content == CLIP
    assert whole.headers["Content-Type"] == "video/mp4"


def test_parts_of_it_can_be_asked_for(address):
    part = httpx.get(address, headers={"Range": "bytes=100-299"})
    # This service says 200 where others say 206.
    assert part.is_success and part.content == CLIP[100:300]
    assert part.headers["Content-Range"] == f"bytes 100-299/{len(CLIP)}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("clip.mp4", "other.mp4"),
        ("X-Amz-Expires=60", "X-Amz-Expires=600"),
        ("attachment", "inline"),
        ("X-Amz-Signature=", "X-Amz-Signature=0"),
    ],
    ids=["another object", "a longer time", "another header", "another signature"],
)
def test_an_address_that_was_changed_is_refused(address, before, after):
    assert httpx.get(address.replace(before, after, 1)).status_code == 403


def test_an_address_is_refused_once_its_time_is_over(signing_store, address):
    short = signing_store.url("videos/v1/clip.mp4", 1)
    time.sleep(2.1)
    refused = httpx.get(short)
    assert refused.status_code in (400, 403) and CLIP not in refused.content


def test_without_a_signature_nothing_is_given(address):
    assert httpx.get(address.partition("?")[0]).status_code in (400, 403)


def test_a_wrong_secret_is_an_error_that_says_what_to_check(signing_store, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    stranger = S3Store("worlds", "clips")
    (tmp_path / "file").write_bytes(CLIP)
    for call in (
        lambda: stranger.upload("videos/v1/clip.mp4", tmp_path / "file"),
        lambda: stranger.size("videos/v1/clip.mp4"),
        lambda: stranger.read_range("videos/v1/clip.mp4"),
        lambda: list(stranger.keys("")),
        lambda: stranger.delete_many(["videos/v1/clip.mp4"]),
    ):
        with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY") as caught:
            call()
        assert "wrong-secret" not in str(caught.value)


def test_large_files_travel_in_parts(signing_store, tmp_path):
    data = bytes(range(251)) * 50_000
    (tmp_path / "file").write_bytes(data)
    settings = S3Settings(endpoint=signing_store.settings.endpoint, part_bytes=5 << 20)
    S3Store("worlds", "clips", settings).upload("checkpoints/1", tmp_path / "file")
    assert signing_store.size("checkpoints/1") == len(data)
    assert b"".join(signing_store.read_range("checkpoints/1", 6 << 20)) == data[6 << 20 :]


def test_an_upload_that_was_begun_and_left_is_no_object_and_goes(signing_store):
    client = signing_store._client
    begun = {"Bucket": "worlds", "Key": "clips/videos/v1/clip.mp4"}
    upload = client.create_multipart_upload(**begun)["UploadId"]
    client.upload_part(**begun, UploadId=upload, PartNumber=1, Body=bytes(5 << 20))
    assert not list(signing_store.keys(""))
    with pytest.raises(ObjectNotFoundError):
        signing_store.size("videos/v1/clip.mp4")
    assert signing_store.remove_unfinished(older_s=3600) == 0
    assert signing_store.remove_unfinished(older_s=0) == 1
    assert not client.list_multipart_uploads(Bucket="worlds").get("Uploads")

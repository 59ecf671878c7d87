"""The `openai` client, pointed at the clip service."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from deployments.settings import load_settings
from tests.clip_server import CLIP_BYTES, ClipServer, clip_of
from tests.picture_samples import moving_square, mp4_bytes
from tests.serving import png

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def client(clip_server: ClipServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{clip_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_clip_is_ordered_awaited_and_fetched(client, clip_server):
    video = client.videos.create_and_poll(
        prompt="a city at dusk",
        model="nano",
        seconds="4",
        size="1280x720",
        poll_interval_ms=20,
        extra_body={"num_steps": 1, "fps": 30},
    )
    assert (video.status, video.progress, video.object) == ("completed", 100, "video")
    assert (video.seconds, video.size, video.model) == ("4", "1280x720", "nano")
    assert video.prompt == "a city at dusk"
    order = clip_server.do(clip_server.queue.get(video.id, "local")).order
    assert (order.num_steps, order.fps, order.num_frames) == (1, 30, 96)
    clip = client.videos.download_content(video.id).read()
    assert clip == clip_of(order)
    assert client.videos.download_content(video.id, variant="thumbnail").read() == clip[:1000]


def test_a_picture_to_begin_with_is_sent_as_a_file(client, clip_server):
    picture = png(160, 96)
    for name in ("first.png", 'naïve "name".png'):
        video = client.videos.create(
            prompt="go on", input_reference=(name, picture, "image/png"), extra_body={"num_frames": 8}
        )
        order = clip_server.do(clip_server.queue.get(video.id, "local")).order
        assert clip_server.objects.read(order.image_key) == picture


@pytest.mark.parametrize("kind", ["image", "video"])
def test_what_to_begin_with_may_be_a_data_address(client, clip_server, kind):
    file = png(160, 96) if kind == "image" else mp4_bytes(moving_square(8))
    address = f"data:{kind}/any;base64,{base64.b64encode(file).decode()}"
    # The client takes files alone for its own parameter.
    reference = {"input_reference": {"image_url": address}}
    made = client.videos.create(prompt="go on", extra_body={"num_frames": 8, **reference})
    order = clip_server.do(clip_server.queue.get(made.id, "local")).order
    assert clip_server.objects.read(order.image_key or order.source_key) == file
    assert (order.image_key is None) == (kind == "video")


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ({"file_id": "file-1"}, "no files are kept here under an id"),
        ({"image_url": "https://example.com/a.png"}, "nothing is fetched"),
    ],
)
def test_what_is_elsewhere_is_not_fetched(client, reference, says):
    with pytest.raises(openai.UnprocessableEntityError, match=says):
        client.videos.create(prompt="go on", extra_body={"input_reference": reference})


def test_the_example_of_the_manual_works_as_it_is_written(database_url, tmp_path, monkeypatch):
    manual = (ROOT / "docs" / "videos.md").read_text()
    (example,) = [code for code in re.findall(r"```python\n(.*?)```", manual, re.DOTALL) if "OpenAI" in code]
    monkeypatch.chdir(tmp_path)
    limits = load_settings().videos
    with ClipServer(
        database_url, tmp_path, max_pixels=limits.max_pixels, max_work=limits.max_work
    ).running() as server:
        exec(example.replace("http://127.0.0.1:8000", server.url), {})
    assert (tmp_path / "clip.mp4").stat().st_size == CLIP_BYTES


def test_what_a_file_is_its_bytes_say(client, clip_server):
    """Of bytes without a name the client says that they are any bytes, of a wrong name something wrong."""
    picture, film = png(160, 96), mp4_bytes(moving_square(8))
    for file in (film, ("film", film), ("film.png", film), picture, ("picture.mp4", picture, "video/mp4")):
        video = client.videos.create(prompt="go on", input_reference=file, extra_body={"num_frames": 8})
        order = clip_server.do(clip_server.queue.get(video.id, "local")).order
        data = file[1] if isinstance(file, tuple) else file
        assert clip_server.objects.read(order.source_key if data is film else order.image_key) == data


def test_videos_are_listed_page_after_page(client):
    made = [client.videos.create(prompt="a page", extra_body={"num_frames": 4}).id for _ in range(3)]
    listed = []
    for video in client.videos.list(limit=2):
        listed.append(video.id)
        if len(listed) == 3:
            break
    assert listed == made[::-1]
    everything = [video.id for video in client.videos.list(limit=50, order="asc")]
    assert len(everything) == len(set(everything))
    assert everything[-3:] == made


def test_delete_cancels_what_has_not_ended(client):
    video = client.videos.create(prompt="wait for ever", extra_body={"num_frames": 4})
    answer = client.videos.delete(video.id)
    assert (answer.id, answer.deleted, answer.object) == (video.id, True, "video.deleted")
    assert client.videos.poll(video.id, poll_interval_ms=20).status == "failed"
    with pytest.raises(openai.ConflictError):
        client.videos.delete(video.id)


def test_delete_removes_the_files_of_a_finished_video_when_told_to(client):
    video = client.videos.create_and_poll(
        prompt="not for long", poll_interval_ms=20, extra_body={"num_frames": 4, "kept": True}
    )
    with pytest.raises(openai.ConflictError, match="files=true"):
        client.videos.delete(video.id)
    for _ in range(2):
        assert client.videos.delete(video.id, extra_query={"files": "true"}).deleted
    with pytest.raises(openai.NotFoundError, match="removed"):
        client.videos.download_content(video.id)
    assert client.videos.retrieve(video.id).status == "completed"


def test_errors_are_those_of_the_client(client):
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve("video_0")
    with pytest.raises(openai.UnprocessableEntityError, match="sora-2"):
        client.videos.create(prompt="a", model="sora-2")

"""The opening of the clip service when an ingress replica starts, and the reason while it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from deployments.clients.text_encoder_client import TextEncoderClient
from deployments.errors import ApiError
from deployments.prompts import PromptEncoder
from deployments.stores import StoreUrls
from deployments.videos.orders import ServedModel
from deployments.videos.service import VideoService
from deployments.videos.settings import VideoSettings
from deployments.videos.startup import VideoStartup, VideoStartupError, open_video_service
from gamegen.models.sampling import SamplingConfig
from tests.clip_server import PATIENCE_S, TextEncoderHandle, application

Start = Callable[..., VideoStartup]


async def served_model() -> ServedModel:
    return ServedModel(name="nano", width=160, height=96, sampling=SamplingConfig())


@pytest.fixture
async def start(database_url: str, tmp_path: Path) -> AsyncIterator[Start]:
    startups = []

    def start(objects: str = str(tmp_path), timeout_s: float = PATIENCE_S) -> VideoStartup:
        async def opened(resources: AsyncExitStack) -> VideoService:
            return await open_video_service(
                resources,
                settings=VideoSettings(),
                stores=StoreUrls(sessions="", database=database_url, objects=objects),
                prompt_encoder=PromptEncoder(TextEncoderClient(TextEncoderHandle())),
                served_model=served_model,
            )

        startups.append(VideoStartup(opened, timeout_s=timeout_s, retry_interval_s=0.01))
        startups[-1].begin()
        return startups[-1]

    yield start
    for startup in startups:
        await startup.close()


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not happened():
            await asyncio.sleep(0.01)


def is_open(startup: VideoStartup) -> bool:
    try:
        return bool(startup.service)
    except ApiError:
        return False


async def test_a_wrong_key_file_is_told_until_it_is_repaired(start, tmp_path, monkeypatch, caplog):
    keys = tmp_path / "keys"
    keys.write_text("ada a-secret-key\n")
    monkeypatch.setenv("GAMEGEN_API_KEYS", str(keys))
    startup = start()
    await until(lambda: startup.failure)
    for told in (startup.failure.message, caplog.text):
        assert f"{keys}, line 1: write an account and its key's SHA-256" in told
        assert "a-secret-key" not in told
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(application(startup)), base_url="http://a"
    ) as http:
        answer = await http.get("/v1/videos")
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (
        503,
        "not_ready",
        "3",
    )
    assert "line 1" in answer.json()["detail"]
    startup.check_health()
    keys.write_text(f"ada {'0' * 64}\n")
    await until(lambda: is_open(startup))
    assert startup.failure is None
    startup.check_health()


async def test_a_bucket_that_is_not_there_is_told(start, s3_bucket):
    startup = start("s3://another-bucket/gamegen")
    await until(lambda: startup.failure)
    assert "there is no bucket 'another-bucket'" in startup.failure.message
    other = start(f"s3://{s3_bucket}/gamegen")
    await until(lambda: is_open(other))


async def test_a_store_that_cannot_be_reached_does_not_keep_the_service_closed(start, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "test")
    startup = start("s3://worlds/gamegen")
    await until(lambda: is_open(startup))


async def test_passwords_are_not_told(start):
    startup = start("ftp://ada:a-password@store.example/bucket")
    await until(lambda: startup.failure)
    assert "ftp://***@store.example" in startup.failure.message


async def test_the_replica_is_unhealthy_once_its_time_to_start_is_over(start, monkeypatch):
    monkeypatch.setenv("GAMEGEN_API_KEYS", "/not/there")
    startup = start(timeout_s=0.001)
    await until(lambda: startup.failure)
    with pytest.raises(VideoStartupError, match=r"within 0.001 s: .*No such file or directory: '/not/there'"):
        startup.check_health()


def test_a_time_to_start_is_above_zero():
    with pytest.raises(ValueError, match="start_timeout_s = 0: use more than 0 seconds"):
        VideoSettings(start_timeout_s=0)

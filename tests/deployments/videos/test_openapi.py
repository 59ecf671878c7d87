"""The routes keep to their own description, whatever they are sent."""

from __future__ import annotations

import re
import time
from pathlib import Path

import httpx
import pytest

from deployments.errors import PROBLEM_TYPE
from tests.clip_server import PATIENCE_S
from tests.deployments.videos.cases import send_cases

ROOT = Path(__file__).parent.parent.parent.parent
DOCUMENTED = {400, 401, 402, 404, 409, 413, 415, 416, 422, 429, 451, 503}


def test_whatever_is_sent_the_answer_is_as_described(clip_server):
    assert send_cases(clip_server.url, each=4).total() > 75


def test_a_running_application_keeps_to_its_description(address):
    wait_until_open(address)
    assert send_cases(address, each=1).total() > 15


@pytest.mark.long
def test_five_thousand_requests_are_answered_as_described(address):
    wait_until_open(address)
    assert send_cases(address, each=230, is_random=True).total() >= 5000


def wait_until_open(url: str) -> None:
    """Clips can be ordered a moment after worlds can."""
    deadline = time.monotonic() + PATIENCE_S
    while httpx.get(f"{url}/v1/videos").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_every_error_is_described_as_a_problem(clip_server):
    paths = httpx.get(f"{clip_server.url}/openapi.json").json()["paths"]
    statuses = set()
    for operations in paths.values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    statuses.add(int(status))
                    assert [*answer["content"]] == [PROBLEM_TYPE], operation["operationId"]
    assert statuses == DOCUMENTED


def test_every_code_is_explained_where_its_type_points():
    sources = (
        *(ROOT / "deployments" / "videos").glob("*.py"),
        ROOT / "deployments" / "prompts.py",
        ROOT / "gamegen" / "service" / "orders" / "submission_batch.py",
    )
    # A status and a code, or a refusal of the queue.
    written = "\n".join(file.read_text() for file in sources)
    codes = set(re.findall(r'(?:ApiError\(\s*\d+, |Refusal\(\s*)"([a-z_]+)"', written))
    manual = (ROOT / "deployments" / "web" / "docs.html").read_text()
    guide = (ROOT / "docs" / "videos.md").read_text()
    assert len(codes) > 15
    for code in codes:
        assert f'id="{code}"' in manual, code
        assert f"`{code}`" in guide, code

"""The routes keep to their own description, whatever they are sent."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from ray import cloudpickle, serve
from schemathesis import checks

from deployments.videos.aliases import Aliases
from deployments.videos.problems import PROBLEM_TYPE
from deployments.videos.routes import mount_videos

CASES = int(os.environ.get("GAMEGEN_SCHEMATHESIS_CASES", "4"))
"""Of each operation that are as described, and as many that are not; 160 make 5,000 of all."""
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
ROOT = Path(__file__).parent.parent.parent.parent
DOCUMENTED = {400, 401, 402, 404, 409, 413, 416, 422, 429, 451, 503}


def test_whatever_is_sent_the_answer_is_as_described(clip_server):
    description = schemathesis.openapi.from_url(f"{clip_server.url}/openapi.json")
    for found in description.get_all_operations():
        send_cases(found.ok())


def send_cases(operation: Any) -> None:
    """Sends what its description allows, and what it does not."""
    modes = schemathesis.GenerationMode
    for mode in (modes.POSITIVE, modes.NEGATIVE):

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=CASES,
            deadline=None,
            derandomize=CASES < 100,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def sent(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        # Of some operations everything that can be sent is allowed.
        with suppress(Unsatisfiable):
            sent()


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


class Replica:
    """What Serve would send."""


def unavailable():
    raise ConnectionError("no service here")


def test_the_routes_travel_to_another_process():
    app = FastAPI()
    mount_videos(app, unavailable)
    app.add_middleware(Aliases)
    # Teaches cloudpickle how to send an application.
    serve.ingress(app)(Replica)
    there = cloudpickle.loads(cloudpickle.dumps(app))
    assert there.openapi()["paths"].keys() == app.openapi()["paths"].keys()
    answer = TestClient(there).get("/v1/videos/video_0")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert answer.headers["retry-after"] == "5"


def test_every_code_is_explained_where_its_type_points():
    sources = (*(ROOT / "deployments" / "videos").glob("*.py"), ROOT / "gamegen" / "videos" / "group.py")
    # A status and a code, or a refusal of the queue.
    written = "\n".join(file.read_text() for file in sources)
    codes = set(re.findall(r'(?:ApiError\(\s*\d+, |Refusal\(\s*)"([a-z_]+)"', written))
    manual = (ROOT / "deployments" / "static" / "docs.html").read_text()
    guide = (ROOT / "docs" / "videos.md").read_text()
    assert len(codes) > 15
    for code in codes:
        assert f'id="{code}"' in manual, code
        assert f"`{code}`" in guide, code

"""Requests generated from the API's OpenAPI description, and checks of their responses."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import checks

_CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
_PATHS = r"^/v1/(videos|webhooks|credits)"


def send_cases(url: str, each: int, is_random: bool = False) -> Counter[tuple[str, int]]:
    """Sends each operation of the clip service so many requests that its description allows, and as many that it does
    not; how often an operation answered what. Half of those about a video are about one that is there.

    Raises what schemathesis does for an answer that is not as described, or a server's error.
    """
    answers: Counter[tuple[str, int]] = Counter()
    description = schemathesis.openapi.from_url(f"{url}/openapi.json").include(path_regex=_PATHS)
    for found in description.get_all_operations():
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            # Of some operations everything that can be sent is allowed.
            with suppress(Unsatisfiable):
                _send(found.ok(), mode, each, is_random, _ordered(url), answers)
    return answers


def _ordered(url: str) -> str:
    """The id of a new, small video."""
    return httpx.post(f"{url}/v1/videos", json={"prompt": "a desert", "num_frames": 1}).json()["id"]


def _send(
    operation: Any,
    mode: Any,
    count: int,
    is_random: bool,
    video_id: str,
    answers: Counter[tuple[str, int]],
) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=count,
        deadline=None,
        derandomize=not is_random,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def sent(case: Any) -> None:
        if "video_id" in case.path_parameters and answers.total() % 2:
            case.path_parameters["video_id"] = video_id
        answer = case.call_and_validate(checks=_CHECKS)
        answers[operation.label, answer.status_code] += 1

    sent()

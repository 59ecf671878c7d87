"""What is said of words that may not be used."""

from __future__ import annotations

from gamegen.safety.checks import SafetyChecks
from gamegen.videos.order import Order
from gamegen.videos.records import Failure, Verdict


def judged_words(checks: SafetyChecks, order: Order) -> list[Verdict]:
    """What the checkers say of an order's words."""
    verdicts = checks.check_text("prompt", order.prompt)
    if order.negative_prompt:
        verdicts += checks.check_text("negative_prompt", order.negative_prompt)
    return verdicts


def blocked(verdict: Verdict) -> Failure:
    """Why an order is blocked."""
    what = "words" if verdict.subject in ("prompt", "negative_prompt") else verdict.subject
    message = verdict.reason or f"the {verdict.subject} may not be used ({verdict.checker})"
    return Failure(f"{what}_refused", message)

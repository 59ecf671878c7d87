"""Prometheus metrics of clips, exported through Ray; see `deployments.observability.play_metrics`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from deployments.errors import ApiError
from deployments.observability.instruments import Counter, Gauge, Histogram, keep_exporting
from gamegen.service.orders.order import Tier
from gamegen.service.orders.records import Claim, Generation, QueueStats
from gamegen.service.orders.states import FINAL, State

_ORDER_TIMES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 21600.0)
_STAGE_TIMES_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_STEP_TIMES_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_BATCH_SIZES = (1, 2, 3, 4, 5, 6, 7, 8)
_TIERS = tuple(tier.value for tier in Tier)
_ENDS = tuple(sorted(state.value for state in FINAL))

# Recorded in each ingress replica; `ENDED` in every replica that ends orders.

ORDERED = Counter("gamegen_clips_ordered_total", "Orders that were accepted.", tag="tier", values=_TIERS)
REFUSED = Counter(
    "gamegen_clips_refused_total",
    "Orders that could be read and were refused, by the code of the answer.",
    tag="code",
    values=("account_full", "insufficient_credits", "queue_full", "request_reused", "too_many_orders"),
)
ENDED = Counter(
    "gamegen_clips_ended_total",
    "Orders that were ended by who worked on them or had ordered them.",
    tag="state",
    values=_ENDS,
)

# Recorded in each generator replica.

ORDER_TIME = Histogram(
    "gamegen_clip_seconds", "From an order to its finished clip.", _ORDER_TIMES_S, tag="tier"
)
WAIT_TIME = Histogram(
    "gamegen_clip_wait_seconds",
    "From an order to the first generator that took it.",
    _ORDER_TIMES_S,
    tag="tier",
)
STAGE_TIME = Histogram(
    "gamegen_clip_stage_seconds",
    "The parts of a clip's making: draw (with its batch), decode, check, write (H.264 and signature), store.",
    _STAGE_TIMES_S,
    tag="stage",
)
STEP_TIME = Histogram(
    "gamegen_clip_step_seconds", "How long a denoising step of a batch took.", _STEP_TIMES_S
)
STEP_CLIPS = Histogram("gamegen_clip_step_clips", "Clips that shared a step.", _BATCH_SIZES)
STEPS = Counter("gamegen_clip_steps_total", "Denoising steps, one for each clip of a batch.")
CHECKPOINTS = Counter("gamegen_clip_checkpoints_total", "Checkpoints that were kept.")
HELD = Gauge("gamegen_clips_held", "Orders that a generator has.")

# Recorded in each maintenance replica; all of them report the same queue.

WAITING = Gauge(
    "gamegen_clips_waiting", "Orders that nobody works on, in the whole queue.", tag="tier", values=_TIERS
)
LEASED = Gauge(
    "gamegen_clips_leased", "Orders that somebody works on, in the whole queue.", tag="tier", values=_TIERS
)
OLDEST = Gauge(
    "gamegen_clips_oldest_seconds",
    "How long ago the order that has waited for a generator the longest was placed.",
    tag="tier",
    values=_TIERS,
)
TAKEN_OVER = Counter(
    "gamegen_clips_taken_over_total", "Orders that were taken from workers that had not been heard of."
)
WEBHOOKS = Counter(
    "gamegen_webhook_attempts_total",
    "Attempts to send a webhook message: it was delivered, will be tried again (pending) or is given up (failed).",
    tag="outcome",
    values=("delivered", "pending", "failed"),
)

_STAGES = {
    State.GENERATING: "draw",
    State.VAE_DECODING: "decode",
    State.SAFETY_CHECKING: "check",
    State.TRANSCODING: "write",
    State.UPLOADING: "store",
}


def begin_ingress() -> None:
    """Exports an ingress replica's counters at 0."""
    for counter in (ORDERED, REFUSED, ENDED):
        counter.begin()


def begin_generator() -> None:
    """Exports a generator replica's counters at 0, and its gauge."""
    for counter in (ENDED, STEPS, CHECKPOINTS):
        counter.begin()
    keep_exporting((HELD,))


def begin_maintenance() -> None:
    """Exports a maintenance replica's counters at 0, and its gauges."""
    for counter in (ENDED, TAKEN_OVER, WEBHOOKS):
        counter.begin()
    keep_exporting((WAITING, LEASED, OLDEST))


@contextmanager
def ordering(tier: str) -> Iterator[None]:
    """Context that counts the order placed in it as accepted or refused."""
    try:
        yield
    except ApiError as error:
        REFUSED.add(tag=error.code)
        raise
    ORDERED.add(tag=tier)


def record_cancelled(generation: Generation) -> None:
    """Counts an order that its owner cancelled while it waited; the worker counts one that it works on."""
    if generation.state is State.CANCELLED:
        ENDED.add(tag=generation.state)


def record_end(claim: Claim, state: State) -> None:
    """Counts an order that a worker ended; records the time since it was placed if it is completed."""
    ENDED.add(tag=state)
    if state is State.COMPLETED:
        ORDER_TIME.observe(_age_s(claim), tag=claim.tier)


def record_claims(claims: Sequence[Claim]) -> None:
    """Records the waiting times of orders that a generator claimed for the first time."""
    for claim in claims:
        if claim.attempts == 1:
            WAIT_TIME.observe(_age_s(claim), tag=claim.tier)


def record_step(num_clips: int, duration_s: float) -> None:
    """Records a denoising step of a batch."""
    STEP_TIME.observe(duration_s)
    STEP_CLIPS.observe(num_clips)
    STEPS.add(num_clips)


def record_queue(stats: QueueStats) -> None:
    """Records the length and age of the queue."""
    for tier, of_tier in stats.tiers.items():
        WAITING.set(of_tier.pending + of_tier.queued, tag=tier)
        LEASED.set(of_tier.leased, tag=tier)
        OLDEST.set(of_tier.oldest_s, tag=tier)


class StageClock:
    """Stopwatch of a clip's stages; the first one starts at once."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._since_s = time.monotonic()

    def enter(self, state: State | None) -> None:
        """Records the time of the stage so far and starts the next; None ends the last."""
        now_s = time.monotonic()
        STAGE_TIME.observe(now_s - self._since_s, tag=_STAGES[self._state])
        if state is not None:
            self._state = state
            self._since_s = now_s


def _age_s(claim: Claim) -> float:
    # Clocks of two machines may disagree a little.
    return max(0.0, (datetime.now(UTC) - claim.created_at).total_seconds())

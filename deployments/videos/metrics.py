"""What Prometheus is told of clips, in the manner of `deployments.metrics`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from deployments.errors import ApiError
from deployments.metric_kinds import Counter, Histogram, Level, keep
from gamegen.videos.order import Tier
from gamegen.videos.records import Claim, Generation, QueueStats
from gamegen.videos.states import FINAL, State

_ORDER_TIMES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 21600.0)
_STAGE_TIMES_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_STEP_TIMES_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_BATCH_SIZES = (1, 2, 3, 4, 5, 6, 7, 8)
_TIERS = tuple(tier.value for tier in Tier)
_ENDS = tuple(sorted(state.value for state in FINAL))

# In each ingress replica; those that end are counted where they end.

ORDERED = Counter("gamegen_clips_ordered_total", "Orders that were accepted.", "tier", _TIERS)
REFUSED = Counter(
    "gamegen_clips_refused_total",
    "Orders that could be read and were refused, by the code of the answer.",
    "code",
    ("account_full", "insufficient_credits", "queue_full", "request_reused", "too_many_orders"),
)
ENDED = Counter(
    "gamegen_clips_ended_total",
    "Orders that were ended by who worked on them or had ordered them.",
    "state",
    _ENDS,
)

# In each generator replica.

ORDER_TIME = Histogram("gamegen_clip_seconds", "From an order to its finished clip.", _ORDER_TIMES_S, "tier")
WAIT_TIME = Histogram(
    "gamegen_clip_wait_seconds", "From an order to the first generator that took it.", _ORDER_TIMES_S, "tier"
)
STAGE_TIME = Histogram(
    "gamegen_clip_stage_seconds",
    "The parts of a clip's making: draw (with its batch), decode, check, write (H.264 and signature), store.",
    _STAGE_TIMES_S,
    "stage",
)
STEP_TIME = Histogram(
    "gamegen_clip_step_seconds", "How long a denoising step of a batch took.", _STEP_TIMES_S
)
STEP_CLIPS = Histogram("gamegen_clip_step_clips", "Clips that shared a step.", _BATCH_SIZES)
STEPS = Counter("gamegen_clip_steps_total", "Denoising steps, one for each clip of a batch.")
CHECKPOINTS = Counter("gamegen_clip_checkpoints_total", "Checkpoints that were kept.")
HELD = Level("gamegen_clips_held", "Orders that a generator has.")

# In each clerk replica; each tells of the same queue.

WAITING = Level("gamegen_clips_waiting", "Orders that nobody works on, in the whole queue.", "tier", _TIERS)
LEASED = Level("gamegen_clips_leased", "Orders that somebody works on, in the whole queue.", "tier", _TIERS)
OLDEST = Level(
    "gamegen_clips_oldest_seconds",
    "How long ago the order that has waited for a generator the longest was placed.",
    "tier",
    _TIERS,
)
TAKEN_OVER = Counter(
    "gamegen_clips_taken_over_total", "Orders that were taken from workers that had not been heard of."
)
WEBHOOKS = Counter(
    "gamegen_webhook_attempts_total",
    "Attempts to send a webhook message: it was delivered, will be tried again (pending) or is given up (failed).",
    "outcome",
    ("delivered", "pending", "failed"),
)

_STAGES = {
    State.GENERATING: "draw",
    State.VAE_DECODING: "decode",
    State.SAFETY_CHECKING: "check",
    State.TRANSCODING: "write",
    State.UPLOADING: "store",
}


def begin_ingress() -> None:
    """Exports an ingress replica's counters before anything happened."""
    for counter in (ORDERED, REFUSED, ENDED):
        counter.begin()


def begin_generator() -> None:
    """The same for a generator."""
    for counter in (ENDED, STEPS, CHECKPOINTS):
        counter.begin()
    keep((HELD,))


def begin_clerk() -> None:
    """The same for a clerk."""
    for counter in (ENDED, TAKEN_OVER, WEBHOOKS):
        counter.begin()
    keep((WAITING, LEASED, OLDEST))


@contextmanager
def ordering(tier: str) -> Iterator[None]:
    """Counts an order that is placed while it is entered."""
    try:
        yield
    except ApiError as error:
        REFUSED.add(tag=error.code)
        raise
    ORDERED.add(tag=tier)


def record_cancelled(generation: Generation) -> None:
    """Who ordered it gave it up; one that is worked on is counted by its worker."""
    if generation.state is State.CANCELLED:
        ENDED.add(tag=generation.state)


def record_end(claim: Claim, state: State) -> None:
    """An order ended at a worker's hands."""
    ENDED.add(tag=state)
    if state is State.COMPLETED:
        ORDER_TIME.observe(_age_s(claim), tag=claim.tier)


def record_claims(claims: Sequence[Claim]) -> None:
    """A generator took orders."""
    for claim in claims:
        if claim.attempts == 1:
            WAIT_TIME.observe(_age_s(claim), tag=claim.tier)


def record_step(num_clips: int, duration_s: float) -> None:
    """A batch took a step."""
    STEP_TIME.observe(duration_s)
    STEP_CLIPS.observe(num_clips)
    STEPS.add(num_clips)


def record_queue(stats: QueueStats) -> None:
    """How full the queue is."""
    for tier, of_tier in stats.tiers.items():
        WAITING.set(of_tier.pending + of_tier.queued, tag=tier)
        LEASED.set(of_tier.leased, tag=tier)
        OLDEST.set(of_tier.oldest_s, tag=tier)


class StageClock:
    """Times a clip's stages, from the one that it is begun in."""

    def __init__(self, state: State) -> None:
        self._state, self._since_s = state, time.monotonic()

    def enter(self, state: State | None) -> None:
        """The stage before ends; None ends the last."""
        now_s = time.monotonic()
        STAGE_TIME.observe(now_s - self._since_s, tag=_STAGES[self._state])
        if state is not None:
            self._state, self._since_s = state, now_s


def _age_s(claim: Claim) -> float:
    # Clocks of two machines may disagree a little.
    return max(0.0, (datetime.now(UTC) - claim.created_at).total_seconds())

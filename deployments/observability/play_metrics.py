"""Prometheus metrics of play, exported through Ray.

Ray exports them with `ray_` before their names on every node, and Serve tags them with application, deployment and
replica. Recording one takes about ten microseconds, so figures of frames are gathered and recorded once a chunk.
`docs/operations.md` explains each metric, `cluster/dashboards/gamegen.json` shows them.

Ray exports the counts of a histogram's buckets, and estimates its sum from those: use histograms for quantiles and
counts, and separate counters for means.
"""

from __future__ import annotations

from deployments.observability.instruments import Counter, Gauge, Histogram, keep_exporting
from deployments.sessions.session_record import SessionRecord

_FRAME_TIMES_S = (0.02, 0.035, 0.05, 0.065, 0.085, 0.125, 0.25, 0.5, 1.0, 2.0, 5.0)
_ANSWER_TIMES_S = (0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.4, 0.6, 1.0, 2.5)
_STAGE_TIMES_S = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
_STEP_TIMES_S = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.5, 1.0)
_COMMIT_TIMES_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
_BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)

# Recorded in each ingress replica.

SESSIONS_PLAYING = Gauge("gamegen_sessions_playing", "Sessions that are played.")
SESSIONS_QUEUED = Gauge("gamegen_sessions_queued", "Sessions whose player waits for a place.")
SESSIONS_BEGUN = Counter("gamegen_sessions_begun_total", "Sessions that were created.")
SESSIONS_ENDED = Counter(
    "gamegen_sessions_ended_total",
    "Sessions that were ended, by DELETE or by a bye; others expire in the store when nobody comes back.",
    tag="reason",
    values=("deleted", "bye"),
)
STREAMS_ENDED = Counter(
    "gamegen_streams_ended_total",
    "Sockets that ended, by why: the client left, or what the server closed them for.",
    tag="reason",
    values=(
        "left",
        "ended",
        "idle",
        "migrate",
        "taken_over",
        "too_many_messages",
        "unknown_session",
        "wrong_token",
    ),
)
REQUESTS_REFUSED = Counter(
    "gamegen_requests_refused_total",
    "REST requests, and beginnings on a socket, that were answered with an error, by its code.",
    tag="code",
    values=("too_many_sessions", "too_many_sessions_of_user", "not_ready"),
)
MESSAGES_REFUSED = Counter(
    "gamegen_messages_refused_total",
    "Messages on sockets that were answered with an error, by its code.",
    tag="code",
    values=("invalid_message", "too_many_messages", "too_many_instructions", "too_many_words", "refused"),
)
CHUNKS_SHOWN = Counter("gamegen_chunks_shown_total", "Chunks whose turn came.")
CHUNKS_LATE = Counter(
    "gamegen_chunks_late_total",
    "Chunks whose first frame was sent over 1/24 s after it was due by the pace before it, or never came.",
)
STALLS = Counter("gamegen_stalls_total", "Chunks whose first frame was sent over 250 ms after it was due.")
CHUNKS_OFF_PACE = Counter(
    "gamegen_chunks_off_pace_total",
    "Chunks that were spread over 1/24 s more than the frame rate asked for, since chunks come too slowly.",
)
FRAME_GAP = Histogram(
    "gamegen_frame_gap_seconds",
    "The longest time between two frames that were sent, of each chunk.",
    _FRAME_TIMES_S,
)
CONTROL_LATENCY = Histogram(
    "gamegen_control_latency_seconds",
    "From a control's arrival at the server to the moment its first frame was sent.",
    _ANSWER_TIMES_S,
)
CONTROL_STAGE = Histogram(
    "gamegen_control_stage_seconds",
    "The parts of that: wait for the chunk to begin, step, decode, and send (its turn and the socket).",
    _STAGE_TIMES_S,
    tag="stage",
)
FRAMES_SENT = Counter("gamegen_frames_sent_total", "Frames that were sent.")
FRAMES_DROPPED = Counter(
    "gamegen_frames_dropped_total", "Frames that were not sent, as the client was behind or gone."
)
FRAME_BYTES = Counter("gamegen_frame_bytes_total", "Bytes of the JPEG files and fragments that were sent.")
RECOVERIES = Counter(
    "gamegen_recoveries_total",
    "Sessions that went on elsewhere or again: world_moved (brought back on another world replica), resumed (their "
    "player came back), taken_over (from an owner that had not let go), migrate_sent (players sent away).",
    tag="kind",
    values=("world_moved", "resumed", "taken_over", "migrate_sent"),
)
CHUNKS_HELD_BACK = Gauge(
    "gamegen_chunks_held_back", "Chunks that were shown and that the store has not taken yet."
)
STORE_COMMIT = Histogram(
    "gamegen_store_commit_seconds", "How long the store took for a session's log.", _COMMIT_TIMES_S
)

# Recorded in each world replica.

STEP = Histogram("gamegen_step_seconds", "How long the model took for a chunk of a batch.", _STEP_TIMES_S)
STEP_SESSIONS = Histogram("gamegen_step_sessions", "Sessions that shared a step.", _BATCH_SIZES)
CHUNKS_DRAWN = Counter(
    "gamegen_chunks_drawn_total", "Chunks that were drawn, one for each session of a step."
)
SLOTS = Gauge("gamegen_slots", "Worlds that a replica can hold.")
PLACES = Gauge("gamegen_places", "Sessions that a replica offers to draw, fewer while chunks come late.")
SLOTS_HELD = Gauge("gamegen_slots_held", "Worlds that a replica holds, played or not.")
SWAPS = Counter("gamegen_swaps_total", "Worlds that were pushed out of their slot by another.")
RESTORES = Counter("gamegen_restores_total", "Worlds that were brought back from a snapshot.")

_INGRESS: tuple[Counter, ...] = (
    SESSIONS_BEGUN,
    SESSIONS_ENDED,
    STREAMS_ENDED,
    REQUESTS_REFUSED,
    MESSAGES_REFUSED,
    CHUNKS_SHOWN,
    CHUNKS_LATE,
    STALLS,
    CHUNKS_OFF_PACE,
    FRAMES_SENT,
    FRAMES_DROPPED,
    FRAME_BYTES,
    RECOVERIES,
)


def begin_ingress() -> None:
    """Exports an ingress replica's counters at 0, and its gauges."""
    for counter in _INGRESS:
        counter.begin()
    keep_exporting((SESSIONS_PLAYING, SESSIONS_QUEUED, CHUNKS_HELD_BACK))


def begin_world(slots: int) -> None:
    """Exports a world replica's counters at 0, and its gauges."""
    for counter in (CHUNKS_DRAWN, SWAPS, RESTORES):
        counter.begin()
    SLOTS.set(slots)
    keep_exporting((SLOTS, PLACES, SLOTS_HELD))


def record_claim(record: SessionRecord) -> None:
    """Counts a session that an ingress claimed as resumed or taken over; one that was released has state `waiting`."""
    if record.state != "waiting":
        RECOVERIES.add(tag="taken_over")
    elif record.version:
        RECOVERIES.add(tag="resumed")


def record_step(num_sessions: int, duration_s: float) -> None:
    """Records a forward pass for `num_sessions` sessions; 0 records nothing."""
    if not num_sessions:
        return
    STEP.observe(duration_s)
    STEP_SESSIONS.observe(num_sessions)
    CHUNKS_DRAWN.add(num_sessions)

"""The tables of the clip service. Times are `timestamptz`; sums of credits are whole thousandths of a credit.

A change here needs a migration; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def _time(name: str, nullable: bool = True) -> Column:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _created() -> Column:
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now())


def _generation() -> Column:
    return Column("generation_id", Text, ForeignKey("generations.id", ondelete="CASCADE"), nullable=False)


generations = Table(
    "generations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    # The caller's name for the request: the same name and body is the same order.
    Column("request_id", Text),
    Column("body_hash", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    # What it is sorted by within its tier: when it came, less what its priority is worth in seconds.
    Column("rank", Double, nullable=False),
    Column("order", JSONB, nullable=False),
    Column("batch_key", Text, nullable=False),
    Column("content_hash", Text, nullable=False),
    Column("webhook_url", Text),
    # What is reserved for it; once it has ended, what it cost.
    Column("millicredits", BigInteger, nullable=False, server_default="0"),
    _created(),
    _time("started_at"),
    _time("finished_at"),
    # It is not claimed before.
    Column("available_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # Who works on it, until when, and how many have had it: of two who think they do, the higher fence does.
    Column("worker", Text),
    _time("lease_until"),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    # Denoising steps of all its chunks.
    Column("step", Integer, nullable=False, server_default="0"),
    Column("num_steps", Integer, nullable=False),
    Column("step_ms", Double),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("content_key", Text),
    Column("content_bytes", BigInteger),
    Column("content_sha256", Text),
    # Of the frames before they are put into a file.
    Column("frames_sha256", Text),
    Column("thumbnail_key", Text),
    Column("is_kept", Boolean, nullable=False, server_default=text("false")),
    # When its files were removed.
    _time("expired_at"),
    CheckConstraint("priority between 0 and 9", name="priority"),
    Index("uq_generations_request", "account", "request_id", unique=True),
    Index("ix_generations_waiting", "state", "tier", "rank", postgresql_where=text("worker is null")),
    Index("ix_generations_pending", "rank", postgresql_where=text("state = 'PENDING'")),
    Index("ix_generations_unfinished", "account", "tier", postgresql_where=text("finished_at is null")),
    Index("ix_generations_leased", "lease_until", postgresql_where=text("worker is not null")),
    Index("ix_generations_account", "account", "created_at"),
    Index("ix_generations_content", "content_hash", postgresql_where=text("state = 'COMPLETED'")),
    Index("ix_generations_finished", "finished_at"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("generation_id", Text, ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True),
    # Denoising steps that it is good for.
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("fence", BigInteger, nullable=False),
    Column("key", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    _created(),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("node", Text, nullable=False),
    _time("started_at", nullable=False),
    _time("seen_at", nullable=False),
)

safety_audit = Table(
    "safety_audit",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    _generation(),
    # prompt, negative_prompt, image, source or frames.
    Column("subject", Text, nullable=False),
    Column("checker", Text, nullable=False),
    Column("score", Double, nullable=False),
    Column("threshold", Double, nullable=False),
    Column("is_allowed", Boolean, nullable=False),
    Column("reason", Text),
    _created(),
    Index("ix_safety_audit_generation_id", "generation_id"),
)

events = Table(
    "events",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    _generation(),
    # state, progress, checkpoint, lease, expired.
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("data", JSONB, nullable=False),
    _created(),
    Index("ix_events_generation_id", "generation_id", "id"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", Text, primary_key=True),
    # What can be spent: what was granted, less what was spent or is reserved. The ledger says how it came to be.
    Column("balance_millicredits", BigInteger, nullable=False, server_default="0"),
    _created(),
    CheckConstraint("balance_millicredits >= 0", name="balance"),
)

credits_ledger = Table(
    "credits_ledger",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("account", Text, ForeignKey("accounts.id"), nullable=False),
    # Without a foreign key: the ledger outlives what was paid for.
    Column("generation_id", Text),
    # grant, reserve, settle or refund.
    Column("kind", Text, nullable=False),
    # What it does to the balance; settling does nothing to it.
    Column("millicredits", BigInteger, nullable=False),
    _created(),
    Index("ix_credits_ledger_account", "account", "id"),
    # Each happens once to an order, however often it is tried.
    Index("uq_credits_ledger_once", "generation_id", "kind", unique=True),
)

tiers = Table(
    "tiers",
    metadata,
    Column("name", Text, primary_key=True),
    # Stride scheduling: the tier of the lowest pass goes next and moves on by its work divided by its share.
    Column("pass", Double, nullable=False),
)

webhook_secrets = Table(
    "webhook_secrets",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("account", Text, nullable=False),
    Column("secret", Text, nullable=False),
    _created(),
    # After it was replaced it signs beside its successor until then.
    _time("expires_at"),
    Index("ix_webhook_secrets_account", "account"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    # The webhook-id header: the same for every attempt.
    Column("id", Text, primary_key=True),
    _generation(),
    Column("account", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("event", Text, nullable=False),
    # pending, delivered or failed.
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_attempt_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # Of the last attempt.
    Column("status", Integer),
    Column("error", Text),
    _created(),
    _time("delivered_at"),
    Column("worker", Text),
    _time("lease_until"),
    Index("ix_webhook_deliveries_due", "next_attempt_at", postgresql_where=text("state = 'pending'")),
    Index("ix_webhook_deliveries_generation_id", "generation_id"),
)

"""Settings of the tiers, and limits of the queue."""

from __future__ import annotations

from dataclasses import dataclass, field

from gamegen.service.orders.order import Tier


@dataclass(frozen=True)
class TierConfig:
    """A tier: its `share` of the work while all tiers have some, its price factor, and its default denoising steps."""

    share: float
    credit_multiplier: float
    num_steps: int

    def __post_init__(self) -> None:
        for name in ("share", "credit_multiplier"):
            if not 0 < getattr(self, name) <= 1000:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0 and at most 1000")
        if not 1 <= self.num_steps <= 1000:
            raise ValueError(f"num_steps = {self.num_steps}: must be 1 to 1000")


@dataclass(frozen=True)
class TiersConfig:
    """Settings of all tiers; shares are relative to each other."""

    realtime: TierConfig = TierConfig(share=5, credit_multiplier=2, num_steps=4)
    standard: TierConfig = TierConfig(share=3, credit_multiplier=1, num_steps=8)
    cinema: TierConfig = TierConfig(share=2, credit_multiplier=1.5, num_steps=50)

    def of(self, tier: Tier) -> TierConfig:
        """Settings of one tier."""
        return {Tier.REALTIME: self.realtime, Tier.STANDARD: self.standard, Tier.CINEMA: self.cinema}[tier]


@dataclass(frozen=True)
class QueueSettings:
    """Limits, priorities and retries of the queue.

    One step of priority is worth `ageing_s` of waiting. An order has `max_attempts`; after a failure it waits for
    `retry_s`, twice as long each time, at most `max_retry_s`. At most `max_waiting_of_account` orders of an account may
    be unfinished, `max_waiting` in all. A new account has `new_account_credits`. Calls to an unreachable database are
    retried for `patience_s`.
    """

    tiers: TiersConfig = field(default_factory=TiersConfig)
    ageing_s: float = 60.0
    max_attempts: int = 5
    retry_s: float = 1.0
    max_retry_s: float = 60.0
    max_waiting_of_account: int = 10_000
    max_waiting: int = 50_000
    new_account_credits: int = 10_000
    patience_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("max_attempts", "max_waiting_of_account", "max_waiting"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        for name in ("ageing_s", "retry_s", "max_retry_s", "new_account_credits", "patience_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must not be negative")

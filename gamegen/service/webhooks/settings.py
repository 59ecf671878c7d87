"""Settings of webhooks, without imports of the modules that send them: every replica loads all settings."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from ipaddress import ip_network


@dataclass(frozen=True)
class UrlRules:
    """Allowed targets of webhooks.

    `ports` are the allowed ones, empty for all. `denied_networks` (like 203.0.113.0/24) are refused besides all
    that are not public: an operator's own public addresses, or the prefix of an own NAT64. `allow_http` and
    `allow_private_addresses` are for development: with them customers reach everything that this server reaches.
    """

    allow_http: bool = False
    allow_private_addresses: bool = False
    ports: tuple[int, ...] = (443, 8443)
    denied_networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for port in self.ports:
            if not 1 <= port <= 65535:
                raise ValueError(f"ports: {port} is not a port: use 1 to 65535")
        for network in self.denied_networks:
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError(f"denied_networks: {error}") from error


@dataclass(frozen=True)
class RequestLimits:
    """Limits of one request.

    `attempt_s` is the timeout from name resolution to the last header, `connect_s` that of each address of the name.
    Requests have at most `max_body_bytes`. Only the head of a response is read, which httpcore limits to 100 KiB.
    `ca_file` (PEM) replaces the certificate authorities.
    """

    attempt_s: float = 15.0
    connect_s: float = 5.0
    max_body_bytes: int = 64 << 10
    ca_file: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("attempt_s", self.attempt_s), ("connect_s", self.connect_s)):
            if value <= 0:
                raise ValueError(f"{name} = {value}: must be above 0 seconds")
        if self.max_body_bytes < 1024:
            raise ValueError(f"max_body_bytes = {self.max_body_bytes}: must be at least 1024")


@dataclass(frozen=True)
class RetrySettings:
    """Exponential backoff: about `first_s` x `factor`^(n-1) seconds after attempt n, at most `most_s`.

    Half of it is random. A delivery fails after `attempts`; with the defaults that is a day and a half after the first.
    """

    attempts: int = 10
    first_s: float = 5.0
    factor: float = 4.0
    most_s: float = 12 * 3600.0

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= 100:
            raise ValueError(f"attempts = {self.attempts}: must be 1 to 100")
        if self.first_s <= 0 or self.most_s < self.first_s:
            raise ValueError(f"first_s = {self.first_s}: must be above 0 and at most most_s ({self.most_s})")
        if not 1 <= self.factor <= 10:
            raise ValueError(f"factor = {self.factor}: must be 1 to 10")

    def wait_s(self, attempts: int, asked_s: float) -> float:
        """Seconds until the next attempt after `attempts`; `asked_s` is the receiver's Retry-After."""
        wait_s = min(self.first_s * self.factor ** (attempts - 1), self.most_s)
        return min(max(wait_s * random.uniform(0.5, 1.0), asked_s), self.most_s)


@dataclass(frozen=True)
class RotationSettings:
    """Overlap of rotated secrets: the old one signs too for `overlap_s` seconds; at most `most_secrets` sign."""

    overlap_s: float = 24 * 3600.0
    most_secrets: int = 3

    def __post_init__(self) -> None:
        if self.overlap_s < 0:
            raise ValueError(f"overlap_s = {self.overlap_s}: must be 0 seconds or more")
        if not 1 <= self.most_secrets <= 10:
            raise ValueError(f"most_secrets = {self.most_secrets}: must be 1 to 10")


@dataclass(frozen=True)
class WebhookSettings:
    """Concurrency, leases and retries of webhooks.

    A sender sends `concurrency` deliveries at a time, at most `per_account` of one account, so that a slow receiver
    does not delay other accounts. A claim lasts `lease_s` seconds, after which another sender takes over from one that
    died. Every `idle_s` seconds a sender looks for deliveries whose notification it missed.
    """

    urls: UrlRules = field(default_factory=UrlRules)
    limits: RequestLimits = field(default_factory=RequestLimits)
    retries: RetrySettings = field(default_factory=RetrySettings)
    rotation: RotationSettings = field(default_factory=RotationSettings)
    concurrency: int = 32
    per_account: int = 8
    lease_s: float = 60.0
    idle_s: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.per_account <= self.concurrency <= 1000:
            raise ValueError(
                f"concurrency = {self.concurrency}, per_account = {self.per_account}: must be 1 to 1000, and "
                "per_account at most concurrency"
            )
        if self.lease_s < 3 * self.limits.attempt_s:
            raise ValueError(
                f"lease_s = {self.lease_s:g}: must be at least three times attempt_s ({self.limits.attempt_s:g}), or "
                "two senders could send one message at a time"
            )
        if self.idle_s < 1:
            raise ValueError(f"idle_s = {self.idle_s:g}: must be at least 1 second")

"""Orders that are submitted together: which are taken, and why others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from gamegen.videos.credits import MILLICREDITS
from gamegen.videos.reading import generation_of
from gamegen.videos.records import Generation, NewGeneration, Refusal
from gamegen.videos.states import State, check_transition
from gamegen.videos.tiers import QueueSettings


@dataclass(frozen=True)
class _Earlier:
    """An order that was there before, or earlier in the group, which has no more than its id yet."""

    body_hash: str
    answer: Generation | str


class Group:
    """Decides one order after the other, as if each had come alone.

    `known` are rows of orders that may be the same ones, and of finished clips that may be what is asked for.
    """

    def __init__(
        self, settings: QueueSettings, balances: dict[str, int], waiting: Counter[str], known: Sequence[Row]
    ) -> None:
        self._settings = settings
        self._balances = balances
        self._waiting = waiting
        self._by_id: dict[str, _Earlier] = {}
        self._by_request: dict[tuple[str, str], _Earlier] = {}
        self._drawn: dict[str, dict[str, Any]] = {}
        self.accepted: dict[str, NewGeneration] = {}
        for row in known:
            if row.is_drawn:
                self._drawn[row.content_hash] = _files(row)
            else:
                self._remember(row, _Earlier(row.body_hash, generation_of(row)))

    def take(self, new: NewGeneration) -> Generation | Refusal | str:
        """The order that it repeats, why it is refused, or the id by which it, or what it repeats, is `accepted`."""
        if (earlier := self._by_id.get(new.id)) is not None:
            return earlier.answer
        if new.request_id is not None:
            earlier = self._by_request.get((new.account, new.request_id))
            if earlier is not None:
                return earlier.answer if earlier.body_hash == new.body_hash else _reused(new)
        if new.order.content_hash not in self._drawn:
            if (refusal := self._refusal(new)) is not None:
                return refusal
            self._balances[new.account] -= new.millicredits
            self._waiting[new.account] += 1
        self.accepted[new.id] = new
        self._remember(new, _Earlier(new.body_hash, new.id))
        return new.id

    def rows(self) -> list[dict[str, Any]]:
        """Those that are accepted, as the database takes them."""
        return [self._row(position, new) for position, new in enumerate(self.accepted.values())]

    def _row(self, position: int, new: NewGeneration) -> dict[str, Any]:
        files = self._drawn.get(new.order.content_hash)
        if files is not None:
            check_transition(State.PENDING, State.COMPLETED)
        return {
            "position": position,
            "id": new.id,
            "account": new.account,
            "request_id": new.request_id,
            "body_hash": new.body_hash,
            "state": State.PENDING if files is None else State.COMPLETED,
            "tier": new.tier,
            "priority": new.priority,
            "order": new.order.to_dict(),
            "batch_key": new.order.batch_key,
            "content_hash": new.order.content_hash,
            "webhook_url": new.webhook_url,
            "millicredits": new.millicredits if files is None else 0,
            "num_steps": new.num_steps,
            **(files or {}),
        }

    def _remember(self, order: NewGeneration | Row, earlier: _Earlier) -> None:
        self._by_id[order.id] = earlier
        if order.request_id is not None:
            self._by_request[order.account, order.request_id] = earlier

    def _refusal(self, new: NewGeneration) -> Refusal | None:
        limit = self._settings.max_waiting_of_account
        if self._waiting[new.account] >= limit:
            return Refusal("account_full", f"{limit} videos of this account are unfinished: wait for some")
        if self._waiting.total() >= self._settings.max_waiting:
            limit = self._settings.max_waiting
            return Refusal(
                "queue_full", f"{limit} videos are unfinished, which is all there is room for: wait"
            )
        balance = self._balances[new.account]
        if balance < new.millicredits:
            return Refusal(
                "insufficient_credits",
                f"it costs {new.millicredits / MILLICREDITS:g} credits and {balance / MILLICREDITS:g} are left:"
                " ask for less, or get more",
            )
        return None


def _files(row: Row) -> dict[str, Any]:
    names = ("content_key", "content_bytes", "content_sha256", "frames_sha256", "thumbnail_key")
    return {name: getattr(row, name) for name in names}


def _reused(new: NewGeneration) -> Refusal:
    return Refusal(
        "request_reused", f"request {new.request_id!r} was another order: use a new X-Request-ID for each"
    )

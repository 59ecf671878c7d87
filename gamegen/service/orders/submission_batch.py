"""Decisions on orders that are submitted together: accepted, repeated or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from gamegen.service.orders.credits import MILLICREDITS
from gamegen.service.orders.reading import generation_of
from gamegen.service.orders.records import Generation, NewGeneration, OrderRefusal
from gamegen.service.orders.states import State, check_transition
from gamegen.service.orders.tiers import QueueSettings


@dataclass(frozen=True)
class _Earlier:
    """An order of an earlier submission, or of this one, which so far has only its id."""

    body_hash: str
    answer: Generation | str


class SubmissionBatch:
    """Decides on orders one after the other, with the result that separate submissions would have.

    `known` are rows of orders that may be repeated, and of finished clips that may have the content asked for.
    """

    def __init__(
        self, settings: QueueSettings, balances: dict[str, int], waiting: Counter[str], known: Sequence[Row]
    ) -> None:
        self._settings = settings
        self._balances = balances
        self._waiting = waiting
        self._by_id: dict[str, _Earlier] = {}
        self._by_request: dict[tuple[str, str], _Earlier] = {}
        self._finished: dict[str, dict[str, Any]] = {}
        self.accepted: dict[str, NewGeneration] = {}
        for row in known:
            if row.is_drawn:
                self._finished[row.content_hash] = _files(row)
            else:
                self._remember(row, _Earlier(row.body_hash, generation_of(row)))

    def take(self, new: NewGeneration) -> Generation | OrderRefusal | str:
        """The order that `new` repeats, its refusal, or the id under which it is in `accepted`."""
        if (earlier := self._by_id.get(new.id)) is not None:
            return earlier.answer
        if new.request_id is not None:
            earlier = self._by_request.get((new.account, new.request_id))
            if earlier is not None:
                return earlier.answer if earlier.body_hash == new.body_hash else _reused(new)
        if new.order.content_hash not in self._finished:
            if (refusal := self._refuse(new)) is not None:
                return refusal
            self._balances[new.account] -= new.millicredits
            self._waiting[new.account] += 1
        self.accepted[new.id] = new
        self._remember(new, _Earlier(new.body_hash, new.id))
        return new.id

    def rows(self) -> list[dict[str, Any]]:
        """Accepted orders as JSON rows for the database."""
        return [self._row(position, new) for position, new in enumerate(self.accepted.values())]

    def _row(self, position: int, new: NewGeneration) -> dict[str, Any]:
        files = self._finished.get(new.order.content_hash)
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

    def _refuse(self, new: NewGeneration) -> OrderRefusal | None:
        limit = self._settings.max_waiting_of_account
        if self._waiting[new.account] >= limit:
            return OrderRefusal(
                "account_full", f"the account has {limit} unfinished videos, which is the limit: retry later"
            )
        if self._waiting.total() >= self._settings.max_waiting:
            limit = self._settings.max_waiting
            return OrderRefusal("queue_full", f"the queue is full ({limit} unfinished videos): retry later")
        balance = self._balances[new.account]
        if balance < new.millicredits:
            return OrderRefusal(
                "insufficient_credits",
                f"the video costs {new.millicredits / MILLICREDITS:g} credits and {balance / MILLICREDITS:g} are left:"
                " order a smaller one, or add credits",
            )
        return None


def _files(row: Row) -> dict[str, Any]:
    names = ("content_key", "content_bytes", "content_sha256", "frames_sha256", "thumbnail_key")
    return {name: getattr(row, name) for name in names}


def _reused(new: NewGeneration) -> OrderRefusal:
    return OrderRefusal(
        "request_reused",
        f"X-Request-ID {new.request_id!r} belongs to another order: use a new one for each order",
    )

"""SQL statements of the queue: the parts that they have in common are the same text in each."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from gamegen.service.orders.events import VIDEOS_CHANNEL, WORK_CHANNEL
from gamegen.service.orders.statements import FOLDER
from gamegen.service.webhooks.deliveries import CHANNEL as WEBHOOKS_CHANNEL

STATEMENTS = {file.stem: file.read_text() for file in sorted(FOLDER.glob("*.sql"))}
HELD = ("finish_encoding", "heartbeat", "progress", "checkpoint", "complete", "end", "give_back")
ENDING = ("complete", "end", "cancel_waiting", "give_back", "reap")


def parts_of(statement: str) -> dict[str, str]:
    """The text of each common table expression, by its name."""
    found = re.finditer(r"^(?:with |\), )(\w+) as \(\n(.*?)^(?=\))", statement, re.S | re.M)
    return {match[1]: match[2] for match in found}


@pytest.mark.parametrize(
    ("part", "statements"),
    [
        ("locked", HELD),
        ("logged", ("claim_pending", "claim_batch", "finish_encoding", "advance", *ENDING)),
        ("webhooks", (*ENDING, "submit")),
        *((part, ENDING) for part in ("settled", "owed", "paid")),
        *((part, ("give_back", "reap")) for part in ("decided", "changed")),
        ("changed", ("end", "cancel_waiting")),
        ("changed", ("claim_pending", "claim_batch")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_common_parts_are_the_same(part: str, statements: tuple[str, ...]) -> None:
    texts = defaultdict(list)
    for name in statements:
        texts[parts_of(STATEMENTS[name])[part]].append(name)
    assert len(texts) == 1, f"{part} differs between {list(texts.values())}"


def test_statements_notify_the_channels_that_are_listened_to() -> None:
    notified = {
        channel for text in STATEMENTS.values() for channel in re.findall(r"pg_notify\('(\w+)'", text)
    }
    assert notified == {VIDEOS_CHANNEL, WORK_CHANNEL, WEBHOOKS_CHANNEL}

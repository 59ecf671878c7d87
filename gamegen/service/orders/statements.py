"""SQL statements of the queue: each is one whole statement in a file of `sql/`.

A statement changes orders, writes their events and ledger entries and notifies listeners at once, so that one way to
the server does all of it. Parts that several statements have in common are spelled out in each of them, with the same
text: a test compares them.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import TextClause, text

FOLDER = Path(__file__).parent / "sql"


def statement(name: str) -> TextClause:
    """The statement in `sql/{name}.sql`."""
    return text((FOLDER / f"{name}.sql").read_text())

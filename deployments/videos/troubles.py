"""What may come in the way of any work on orders, and how it is told."""

from __future__ import annotations

from sqlalchemy.exc import SQLAlchemyError

from gamegen.database.patience import DatabaseAwayError

DATABASE_ERRORS = (DatabaseAwayError, SQLAlchemyError, OSError)
"""Whatever is raised while the database is away: others go on with the work, or it is tried again."""
_MOST_CHARACTERS = 300


def first_line(error: BaseException) -> str:
    """What an error says, without what follows."""
    text = str(error).strip()
    return text.splitlines()[0][:_MOST_CHARACTERS] if text else type(error).__name__

"""What both who work on orders need of a text encoder."""

from __future__ import annotations

from typing import Protocol

from gamegen.models.text import TextStates
from gamegen.videos.order import Order


class Encodes(Protocol):
    """Where words become states."""

    async def texts(self, order: Order) -> tuple[TextStates, TextStates | None]:
        """The states of an order's prompt, and of its negative prompt if it has one; raises ValueError."""

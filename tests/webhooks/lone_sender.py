"""A sender in a process of its own, for a test to kill: `python -m tests.webhooks.lone_sender URL AUTHORITY_FILE`."""

from __future__ import annotations

import asyncio
import sys

from gamegen.database.connection import connect
from gamegen.webhooks.posting import PostLimits
from gamegen.webhooks.sender import Sender, WebhookSettings
from gamegen.webhooks.urls import UrlRules


async def send(url: str, authority: str) -> None:
    limits = PostLimits(attempt_s=1.0, ca_file=authority)
    settings = WebhookSettings(UrlRules(allow_private_addresses=True, ports=()), limits, lease_s=3.0)
    await Sender(connect(url), settings).run()


if __name__ == "__main__":
    asyncio.run(send(*sys.argv[1:]))

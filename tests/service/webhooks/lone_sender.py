"""A sender process for a test to kill: `python -m tests.service.webhooks.lone_sender URL AUTHORITY_FILE`."""

from __future__ import annotations

import asyncio
import sys

from gamegen.service.database.connection import connect
from gamegen.service.webhooks.sender import WebhookSender
from gamegen.service.webhooks.settings import RequestLimits, UrlRules, WebhookSettings


async def send(url: str, authority: str) -> None:
    limits = RequestLimits(attempt_s=1.0, ca_file=authority)
    settings = WebhookSettings(UrlRules(allow_private_addresses=True, ports=()), limits, lease_s=3.0)
    await WebhookSender(connect(url), settings).run()


if __name__ == "__main__":
    asyncio.run(send(*sys.argv[1:]))

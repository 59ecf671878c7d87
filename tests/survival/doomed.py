"""A clip worker that is killed when its clip has taken so many steps: `python -m tests.survival.doomed URL STORE STEP`.

It looks after its order for a second, and keeps a checkpoint every DOOMED_EVERY steps.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from gamegen.provenance.certificates import signer_from_environment
from gamegen.service.database.connection import connect
from gamegen.service.orders.listen import Listener
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.orders.tiers import QueueSettings
from gamegen.storage.objects import LocalStore
from tests.workshop import Workshop


class DoomedQueue(VideoQueue):
    """Kills its process when it is told of a step."""

    last_step = 0

    async def progress(self, steps):
        beat = await super().progress(steps)
        if any(step >= self.last_step for _, step, _ in steps.values()):
            os.kill(os.getpid(), signal.SIGKILL)
        return beat


async def main(url: str, folder: str, step: str) -> None:
    queue = DoomedQueue(connect(url), QueueSettings())
    queue.last_step = int(step)
    async with Listener(url) as listener:
        shop = Workshop(connect(url), queue, listener, LocalStore(Path(folder)), signer_from_environment())
        every = int(os.environ["DOOMED_EVERY"])
        await shop.worker("doomed", checkpoint_every_steps=every, lease_s=1.0).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

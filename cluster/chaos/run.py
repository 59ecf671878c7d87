"""One run: clients order clips, the monkey kills parts, and the orders are judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.chaos.chaos_verdict import ChaosVerdict, judge
from cluster.chaos.local_application import Kind, LocalApplication
from cluster.chaos.monkey import Kill, Monkey
from cluster.chaos.order_requests import OrderRequest
from cluster.chaos.ordering_clients import OrderingClients


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Number of clients, and the kinds and numbers of kills."""

    clients: int
    kinds: Sequence[Kind]
    kills: int
    seed: int
    most_repeated: int
    timeout_s: float = 3600.0


@dataclass(frozen=True)
class Outcome:
    """Verdict and kills of a run; `wall_s` is the time from the first order to the last end."""

    verdict: ChaosVerdict
    kills: list[Kill]
    wall_s: float


def run(
    scene: LocalApplication,
    jobs: Sequence[OrderRequest],
    expected: Mapping[str, str],
    config: RunConfig,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Orders all jobs while parts are killed; returns when all have ended, or time is up."""
    crowd = OrderingClients(scene.url, jobs, config.clients)
    began_s = time.monotonic()

    def share_ended() -> float:
        return len(crowd.ended) / len(jobs)

    def tell(what: str) -> None:
        say(f"{len(crowd.ended)} of {len(jobs)} have ended; {what}")

    with Monkey(scene, config.kinds, config.kills, config.seed, share_ended, tell) as monkey:
        crowd.run(config.timeout_s, monkey.is_behind)
    wall_s = time.monotonic() - began_s
    verdict = judge(scene.stores, jobs, crowd, expected, config.most_repeated)
    return Outcome(replace(verdict, faults=[*verdict.faults, *monkey.errors]), monkey.kills, wall_s)

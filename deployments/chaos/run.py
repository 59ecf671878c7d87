"""One run: a crowd and a monkey on a scene, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from deployments.chaos.crowd import Crowd
from deployments.chaos.jobs import Job
from deployments.chaos.monkey import Kill, Monkey
from deployments.chaos.scene import Kind, Scene
from deployments.chaos.verdict import Verdict, judge


@dataclass(frozen=True)
class RunConfig:
    """How many clients order, and what is killed how often."""

    clients: int
    kinds: Sequence[Kind]
    kills: int
    seed: int
    most_repeated: int
    timeout_s: float = 3600.0


@dataclass(frozen=True)
class Outcome:
    """What came of it; `wall_s` from the first order to the last end."""

    verdict: Verdict
    kills: list[Kill]
    wall_s: float


def run(
    scene: Scene,
    jobs: Sequence[Job],
    expected: Mapping[str, str],
    config: RunConfig,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Has all jobs ordered while parts are killed; returns when all have ended, or time is up."""
    crowd = Crowd(scene.url, jobs, config.clients)
    began_s = time.monotonic()

    def share_ended() -> float:
        return len(crowd.ended) / len(jobs)

    def tell(what: str) -> None:
        say(f"{len(crowd.ended)} of {len(jobs)} have ended; {what}")

    with Monkey(scene, config.kinds, config.kills, config.seed, share_ended, tell) as monkey:
        crowd.run(config.timeout_s, monkey.is_behind)
    wall_s = time.monotonic() - began_s
    verdict = judge(scene.places, jobs, crowd, expected, config.most_repeated)
    return Outcome(replace(verdict, faults=[*verdict.faults, *monkey.errors]), monkey.kills, wall_s)

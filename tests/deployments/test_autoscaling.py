"""Numbers of replicas that the autoscaling policies ask for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from deployments.autoscaling import clip_policy, generators_for, replicas_for, world_policy


@pytest.mark.parametrize(
    "active, queued, late, current, carried, wanted",
    [
        (0, 0, 0, 1, 8, 1),
        (6, 0, 0, 1, 8, 1),
        (7, 0, 0, 1, 8, 2),
        (6, 0, 0.03, 1, 8, 2),
        # Full at a capacity that lateness lowered: counted by slots, the session that waits would wait for ever.
        (4, 1, 0, 1, 4, 2),
        (4, 1, 0, 2, 6, 1),
        (1, 1, 0, 1, 1, 2),
        (3, 0, 0, 3, 1, 3),
    ],
)
def test_world_replicas_follow_sessions_and_lateness(active, queued, late, current, carried, wanted):
    assert (
        replicas_for(active=active, queued=queued, late_share=late, current=current, carried=carried)
        == wanted
    )


def test_the_world_policy_reads_the_replicas_reports():
    reported = {
        "active": {"a": 4.0, "b": 3.0},
        "queued": {"a": 2.0, "b": 2.0},
        "late": {"a": 0.0, "b": 0.0},
        "carried": {"a": 3.0, "b": 5.0},
    }
    context = SimpleNamespace(aggregated_metrics=reported, current_num_replicas=2, target_num_replicas=2)
    assert world_policy(context) == (3, {})
    context.aggregated_metrics = {}
    assert world_policy(context) == (2, {})


@pytest.mark.parametrize(
    "waiting, held, oldest_s, current, wanted",
    [
        (0, 0, 0, 1, 0),
        (5, 3, 10, 1, 1),
        (6, 3, 10, 1, 2),
        # The oldest has waited for more than a minute.
        (1, 8, 61, 2, 3),
    ],
)
def test_generators_follow_the_queue_and_its_age(waiting, held, oldest_s, current, wanted):
    assert generators_for(waiting=waiting, held=held, oldest_s=oldest_s, current=current) == wanted


def test_the_clip_policy_reads_the_replicas_reports():
    reported = {
        "waiting": {"a": 9.0, "b": 9.0},
        "held": {"a": 8.0, "b": 8.0},
        "oldest_s": {"a": 5.0, "b": 5.0},
    }
    context = SimpleNamespace(aggregated_metrics=reported, current_num_replicas=2, target_num_replicas=2)
    assert clip_policy(context) == (4, {})
    context.aggregated_metrics = {}
    assert clip_policy(context) == (2, {})

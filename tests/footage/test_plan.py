"""Plans are repeatable, balanced and only order real changes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from gamegen.footage.plan import ClipPlan, PlanConfig, num_clips, plan_every_scene, plan_worlds

BIOMES = tuple(f"biome {i}" for i in range(12))
CONFIG = PlanConfig()


@pytest.fixture(scope="module")
def plans() -> list[ClipPlan]:
    return [plan for world in plan_worlds("minetest", BIOMES, 1200, 1, CONFIG) for plan in world]


def test_hours_become_clips() -> None:
    assert num_clips(2.0, CONFIG) == 360
    with pytest.raises(ValueError, match="hours is 0"):
        num_clips(0, CONFIG)


def test_the_same_seed_gives_the_same_plans(plans) -> None:
    again = [plan for world in plan_worlds("minetest", BIOMES, 1200, 1, CONFIG) for plan in world]
    assert again == plans
    assert len({plan.clip_id for plan in plans}) == len(plans) == 1200


def test_more_hours_keep_the_plans_of_fewer(plans) -> None:
    fewer = [plan for world in plan_worlds("minetest", BIOMES, 100, 1, CONFIG) for plan in world]
    assert fewer == plans[:100]


def test_scenes_have_their_shares(plans) -> None:
    times = Counter(plan.scene.time_of_day for plan in plans)
    assert 0.42 < times["day"] / 1200 < 0.58
    assert 0.24 < times["night"] / 1200 < 0.36
    assert 0.25 < sum(plan.scene.view == "third" for plan in plans) / 1200 < 0.35
    assert set(Counter(plan.scene.biome for plan in plans).values()) == {100}
    assert len({plan.world_seed for plan in plans}) == 100


def test_every_clip_has_one_or_two_real_changes_spread_over_time(plans) -> None:
    frames = []
    for plan in plans:
        assert 1 <= len(plan.changes) <= 2
        current = {
            "time": plan.scene.time_of_day,
            "weather": plan.scene.weather,
            "perspective": plan.scene.view,
        }
        for change in plan.changes:
            assert current[change.kind] != change.value
            assert {current[change.kind], change.value} != {"dusk", "dawn"}
            current[change.kind] = change.value
            frames.append(change.frame)
    assert min(frames) >= 120
    assert max(frames) <= 440
    assert len(set(frames)) > 250


def test_time_changes_most_often(plans) -> None:
    kinds = Counter(change.kind for plan in plans for change in plan.changes)
    total = kinds.total()
    assert 0.44 < kinds["time"] / total < 0.56
    assert 0.29 < kinds["weather"] / total < 0.41
    assert 0.10 < kinds["perspective"] / total < 0.20


def test_short_clips_have_no_changes() -> None:
    worlds = plan_worlds("minetest", BIOMES, 3, 1, PlanConfig(num_frames=100))
    assert all(plan.changes == () for plan in worlds[0])


def test_every_scene_is_planned_and_each_change_is_of_one_kind() -> None:
    worlds = plan_every_scene("minetest", BIOMES, 1, CONFIG)
    plans = [plan for world in worlds for plan in world]
    assert plan_every_scene("minetest", BIOMES, 1, CONFIG) == worlds
    assert len({plan.clip_id for plan in plans}) == len(plans) == 48
    seen = set()
    for plan in plans:
        shown = {
            "biome": plan.scene.biome,
            "weather": plan.scene.weather,
            "time": plan.scene.time_of_day,
            "perspective": plan.scene.view,
        }
        frames = [0, *(change.frame for change in plan.changes), plan.num_frames]
        assert min(after - before for before, after in pairwise(frames)) == 80
        for change in (None, *plan.changes):
            if change is not None:
                assert shown[change.kind] != change.value
                shown[change.kind] = change.value
            seen.add(tuple({**shown, "time": shown["time"].replace("dawn", "dusk")}.values()))
    assert len(seen) == len(BIOMES) * 4 * 3 * 2

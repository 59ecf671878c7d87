"""Prompts, captions and instructions say what is true, in varied words."""

from __future__ import annotations

import dataclasses
from random import Random

import pytest

from gamegen.footage import captions
from gamegen.footage.clips import CAPTION_FIELDS, INSTRUCTION_FIELDS
from gamegen.footage.recorder import TIMES_OF_DAY, VIEWS, WEATHERS
from gamegen.footage.sources import GAMES, biomes_of

FACTS = captions.Facts("minetest", "taiga", "snow", "night", "first")


def contains_one(text: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in text for phrase in phrases)


@pytest.mark.parametrize("game", GAMES)
def test_every_scene_of_every_game_has_its_own_words(game: str) -> None:
    rng = Random(1)
    for biome in biomes_of(game):
        assert biome in captions.PLACE_WORDS
        for weather in WEATHERS:
            for time in TIMES_OF_DAY:
                for view in VIEWS:
                    facts = captions.Facts(game, biome, weather, time, view)
                    prompts = captions.compose_prompts(facts, rng)
                    assert len(set(prompts)) == captions.NUM_PROMPTS >= 6
                    assert set(captions.compose_caption(facts, rng)) == set(CAPTION_FIELDS)


def test_a_prompt_names_view_place_time_and_weather() -> None:
    for prompt in captions.compose_prompts(FACTS, Random(2)):
        assert contains_one(prompt, captions.VIEW_WORDS["first"]), prompt
        assert contains_one(prompt, captions.PLACE_WORDS["taiga"]), prompt
        assert contains_one(prompt, captions.TIME_WORDS["night"]), prompt
        assert contains_one(prompt, captions.WEATHER_WORDS["snow"]), prompt


def test_wording_varies_between_clips() -> None:
    firsts = {captions.compose_prompts(FACTS, Random(seed))[0] for seed in range(40)}
    assert len(firsts) > 20


@pytest.mark.parametrize(
    ("kind", "change"),
    [("time", {"time_of_day": "day"}), ("weather", {"weather": "clear"}), ("perspective", {"view": "third"})],
)
def test_an_instruction_has_a_short_order_and_all_fields(kind: str, change: dict[str, str]) -> None:
    after = dataclasses.replace(FACTS, **change)
    orders = set()
    for seed in range(60):
        text, fields = captions.compose_instruction(kind, FACTS, after, Random(seed))
        assert set(fields) == set(INSTRUCTION_FIELDS)
        assert all(fields.values())
        assert len(text.split()) <= 7
        orders.add(text)
    assert len(orders) >= 3


def test_an_instruction_that_changes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="'night' stays"):
        captions.compose_instruction("time", FACTS, FACTS, Random(1))


def test_every_change_of_weather_and_time_has_words() -> None:
    rng = Random(3)
    for old in WEATHERS:
        for new in set(WEATHERS) - {old}:
            before = dataclasses.replace(FACTS, weather=old)
            after = dataclasses.replace(FACTS, weather=new)
            assert captions.compose_instruction("weather", before, after, rng)[0]

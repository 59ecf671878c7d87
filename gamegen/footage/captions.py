"""Words for clips, composed from the truth: prompts, five-field captions and instructions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from gamegen.footage.clips import CAPTION_FIELDS, INSTRUCTION_FIELDS

NUM_PROMPTS = 8

VIEW_WORDS = {
    "first": ("first-person", "first person view", "first-person view", "seen through the player's eyes"),
    "third": ("third-person", "third person view", "third-person view", "seen from behind the player"),
}
TIME_WORDS = {
    "day": ("by day", "at noon", "in daylight", "at midday"),
    "dusk": ("at dusk", "at sunset", "in the evening"),
    "dawn": ("at dawn", "at sunrise", "in the early morning"),
    "night": ("at night", "by night", "at midnight", "after dark"),
}
WEATHER_WORDS = {
    "clear": ("", "under a clear sky", "in clear weather"),
    "rain": ("in the rain", "with rain falling", "in rainy weather", "in a downpour"),
    "snow": ("in falling snow", "with snowfall", "while it snows", "in snowy weather"),
    "fog": ("in fog", "in thick fog", "in foggy weather", "in the mist"),
    "cloudy": ("under a grey sky", "in cloudy weather", "under heavy clouds"),
    "storm": ("in a rainstorm", "in stormy weather", "in a heavy storm"),
    "dust": ("in a dust storm", "with dust blowing", "in dusty wind"),
}
PLACE_WORDS = {
    "grassland": ("grassland", "green meadow", "grassy plain"),
    "taiga": ("snowy forest", "taiga", "snow-covered pine forest"),
    "snowy grassland": ("snowy plain", "snow-covered grassland", "snowy grassland"),
    "ice sheet": ("ice sheet", "frozen plain", "icy wasteland"),
    "desert": ("desert", "sandy desert", "dry desert"),
    "sandstone desert": ("sandstone desert", "pale desert", "desert of sandstone"),
    "savanna": ("savanna", "dry savanna", "savanna grassland"),
    "deciduous forest": ("forest", "leafy forest", "deciduous forest"),
    "rainforest": ("rainforest", "jungle", "dense rainforest"),
    "coniferous forest": ("coniferous forest", "pine forest", "fir forest"),
    "tundra": ("tundra", "rocky tundra", "bare tundra"),
    "cold desert": ("cold desert", "silver-sand desert", "cold sandy desert"),
    "wasteland": ("wasteland", "rocky wasteland", "dead wasteland"),
}
SNOWY_BIOMES = ("taiga", "snowy grassland", "ice sheet")
GAME_WORDS = {
    "minetest": ("an open-world voxel game", "a block-built sandbox game", "an open world made of blocks"),
    "vizdoom": ("a retro shooter outdoors", "a classic sprite-based shooter", "an old-style 3-D game world"),
}
MOOD_WORDS = {
    "day": ("bright and open", "sunlit", "full of light"),
    "dusk": ("warm and fading", "orange and calm", "lit by a low sun"),
    "dawn": ("pale and fresh", "pink and quiet", "slowly brightening"),
    "night": ("dark and quiet", "moonlit", "dim and blue"),
}
LIGHT_WORDS = {
    "day": ("bright daylight", "strong overhead light", "full sunlight"),
    "dusk": ("low orange light", "a reddish evening glow", "fading light"),
    "dawn": ("soft pink light", "the first light of morning", "pale morning light"),
    "night": ("faint moonlight", "deep darkness", "dim blue light"),
}
AIR_WORDS = {
    "clear": ("the sky is clear", "a clear sky spreads overhead"),
    "rain": ("rain is falling", "streaks of rain cross the view"),
    "snow": ("snowflakes drift down", "snow is falling"),
    "fog": ("fog hides the distance", "a pale mist surrounds everything"),
    "cloudy": ("grey clouds cover the sky", "the sky is overcast"),
    "storm": ("a heavy storm rages", "rain lashes down under a dark sky"),
    "dust": ("dust blows through the air", "brown dust fills the air"),
}

TIME_ORDERS = {
    "day": (
        "make it day",
        "bring back daylight",
        "let the sun come up high",
        "turn it to noon",
        "make it midday",
    ),
    "dusk": ("make it dusk", "let the sun set", "change to sunset", "turn it to evening"),
    "dawn": ("make it dawn", "let the sun rise", "change to sunrise", "turn it to early morning"),
    "night": (
        "make it night",
        "let night fall",
        "turn it to midnight",
        "make it dark",
        "switch to night time",
    ),
}
WEATHER_ORDERS = {
    "clear": ("clear the sky", "make the weather clear", "bring clear weather", "let the sky clear up"),
    "rain": ("let it rain", "make it rain", "start the rain", "bring rain"),
    "snow": ("let it snow", "make it snow", "start a snowfall", "bring snow"),
    "fog": ("bring in fog", "make it foggy", "let fog roll in", "cover everything in mist"),
    "cloudy": ("cover the sky with clouds", "make it cloudy", "bring grey clouds"),
    "storm": ("start a storm", "bring a heavy storm", "make it stormy"),
    "dust": ("start a dust storm", "let dust blow", "bring dusty wind"),
}
WEATHER_STOPS = {
    "rain": ("stop the rain", "end the rain"),
    "snow": ("stop the snow", "end the snowfall"),
    "fog": ("lift the fog", "clear away the fog"),
    "cloudy": ("clear away the clouds", "open up the sky"),
    "storm": ("end the storm", "calm the storm"),
    "dust": ("stop the dust storm", "let the dust settle"),
}
VIEW_ORDERS = {
    "first": ("switch to first person", "go to first-person view", "see through the player's eyes"),
    "third": ("switch to third person", "go to third-person view", "show the player from behind"),
}
TIME_NAMES = {"day": "day", "dusk": "dusk", "dawn": "dawn", "night": "night"}


@dataclass(frozen=True)
class Facts:
    """What is true of a scene, in the values of the clip table."""

    game: str
    biome: str
    weather: str
    time_of_day: str
    view: str


def _article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _place(facts: Facts, rng: Random) -> str:
    return rng.choice(_words(PLACE_WORDS, facts.biome))


def _words(table: Mapping[str, tuple[str, ...]], value: str) -> tuple[str, ...]:
    """Footage of other games has values of its own: they stand for themselves."""
    return table.get(value, (value,))


def compose_prompts(facts: Facts, rng: Random, count: int = NUM_PROMPTS) -> list[str]:
    """`count` different short ways to ask for the scene, each naming view, place, time and weather."""
    prompts: list[str] = []
    while len(prompts) < count:
        view = rng.choice(VIEW_WORDS[facts.view])
        place, time = _place(facts, rng), rng.choice(_words(TIME_WORDS, facts.time_of_day))
        weather = rng.choice(_words(WEATHER_WORDS, facts.weather))
        prompt = rng.choice(
            (
                f"{view}, {_join(place, time, weather)}",
                f"{view} of {_join(_article(place), time, weather)}"
                if view.endswith("view")
                else f"{_join(place, time, weather)}, {view}",
                f"{_join(_article(place), weather, time)}, {view}",
                f"{_join(place, time)}, {weather}, {view}" if weather else f"{_join(place, time)}, {view}",
            )
        )
        if prompt not in prompts:
            prompts.append(prompt)
    return prompts


def compose_caption(facts: Facts, rng: Random) -> dict[str, str]:
    """The five `CAPTION_FIELDS` for a clip that starts with `facts`."""
    place, time = _place(facts, rng), rng.choice(TIME_WORDS[facts.time_of_day])
    view = rng.choice(VIEW_WORDS[facts.view][:3])
    air = rng.choice(AIR_WORDS[facts.weather])
    character = (
        rng.choice(
            ("The player's hand holds its tool at the edge of the view", "Only the player's tool is seen")
        )
        if facts.view == "first"
        else rng.choice(
            ("The player's figure walks ahead of the camera", "The camera follows the player's back")
        )
    )
    texts = (
        _sentence(
            _join(rng.choice(("a player explores", "exploring", "a walk through")), _article(place), time)
        ),
        _sentence(f"{rng.choice(GAME_WORDS.get(facts.game, (facts.game,)))}, {view}"),
        character + ".",
        _sentence(f"{_article(place)} with {rng.choice(LIGHT_WORDS[facts.time_of_day])}; {air}"),
        _sentence(f"{rng.choice(MOOD_WORDS[facts.time_of_day])}; {air}"),
    )
    return dict(zip(CAPTION_FIELDS, texts, strict=True))


def compose_instruction(kind: str, before: Facts, after: Facts, rng: Random) -> tuple[str, dict[str, str]]:
    """The short order and the five `INSTRUCTION_FIELDS` for a change of `kind` time, weather or perspective.

    Raises ValueError if nothing of that kind changes.
    """
    attribute = {"time": "time_of_day", "weather": "weather", "perspective": "view"}[kind]
    old, new = getattr(before, attribute), getattr(after, attribute)
    if old == new:
        raise ValueError(f"an instruction of kind {kind} must change something, but {old!r} stays")
    place = _place(after, rng)
    if kind == "time":
        orders = (*TIME_ORDERS[new], f"turn {TIME_NAMES[old]} into {TIME_NAMES[new]}")
        transition = f"The {TIME_NAMES[old]} turns into {TIME_NAMES[new]}."
    elif kind == "weather":
        stops = WEATHER_STOPS[old] if new == "clear" else (f"change the {old} weather to {new}",)
        orders = (*WEATHER_ORDERS[new], *stops)
        transition = f"The weather changes from {old} to {new}."
    else:
        orders = VIEW_ORDERS[new]
        transition = f"The camera goes from {old} to {new} person."
    texts = (
        _sentence(f"{_article(place)}; {rng.choice(AIR_WORDS[after.weather])}"),
        transition,
        _sentence(rng.choice(LIGHT_WORDS[after.time_of_day])),
        rng.choice(("The player goes on exploring.", "The player keeps moving.", "The player carries on.")),
        _sentence(rng.choice(VIEW_WORDS[after.view][:3])),
    )
    return rng.choice(orders), dict(zip(INSTRUCTION_FIELDS, texts, strict=True))


def compose_short_prompts(facts: Facts, rng: Random) -> list[str]:
    """Prompts that name the view and one fact only, as people type them: "first-person, night"."""
    view = VIEW_WORDS[facts.view][0]
    words = [_place(facts, rng), rng.choice((*_words(TIME_WORDS, facts.time_of_day), facts.time_of_day))]
    if facts.weather != "clear":
        words.append(rng.choice((*_words(WEATHER_WORDS, facts.weather), facts.weather)))
    if facts.biome in SNOWY_BIOMES:
        words.append(rng.choice(("snow", "a snowy world")))
    noon = [rng.choice(("noon", "midday"))] if facts.time_of_day == "day" else []
    return [f"{view}, {word.removeprefix('at ')}" for word in words + noon if word]

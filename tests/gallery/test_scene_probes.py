"""Scene probes: fitted to clips' prompts, they choose starts of the biome, weather and time of day asked for."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from random import Random
from typing import Any

import numpy as np
import pytest

from gamegen.footage import captions
from gamegen.gallery.build import build_gallery
from gamegen.gallery.gallery import Gallery, GalleryEntry
from gamegen.gallery.probe_fitting import described_texts, fit_probes
from gamegen.gallery.scene_probes import SceneProbes
from gamegen.models.text import TextEncoder, compose_prompt, load_text_encoder
from tests.engine.test_world import random_model
from tests.gallery.samples import CARD, encoded_rows, write_clips, write_encoded

BIOMES = ("desert", "rainforest", "tundra")
WEATHERS = ("clear", "rain", "fog")
SCENES = [*itertools.product(BIOMES, WEATHERS, ("day", "dusk", "dawn", "night"))]


def row(number: int, scene: tuple[str, str, str], encoder: TextEncoder) -> dict[str, Any]:
    """What probes are fitted to of a clip that shows one scene, but for the first chunks of another time of day."""
    facts = captions.Facts("minetest", *scene, view=("first", "third")[number // 4 % 2])
    rng = Random(number)
    texts = [*captions.compose_prompts(facts, rng, 3), *captions.compose_short_prompts(facts, rng)]
    tokens = [states.tokens.numpy().astype(np.float16).tobytes() for states in encoder.encode(texts)]
    prompts = [{"text": text, "tokens": data} for text, data in zip(texts, tokens, strict=True)]
    before = "night" if scene[2] == "day" else "day"
    return {
        "num_chunks": 8,
        "segments": [{"chunk": 0, "prompts": prompts}],
        "biome": [scene[0]] * 8,
        "weather": [scene[1]] * 8,
        "time_of_day": [before] * 2 + [scene[2]] * 6,
    }


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_text_encoder()


@pytest.fixture(scope="module")
def probes(encoder) -> SceneProbes:
    rows = [row(number, scene, encoder) for number, scene in enumerate(SCENES)]
    fitted = fit_probes(described_texts(rows))
    assert fitted is not None
    return fitted


def vector(encoder: TextEncoder, prompt: str, perspective: str = "first") -> np.ndarray:
    return encoder.encode([compose_prompt(prompt, perspective)])[0].pooled.numpy()


def gallery_of(scenes: list[tuple[str, str, str]], probes: SceneProbes | None, copies: int) -> Gallery:
    """First-person starts whose captions are all alike, so that only their scenes tell them apart."""
    entries = tuple(
        GalleryEntry(
            id=f"{biome} {weather} {time} {copy}",
            caption="a place",
            perspective="first",
            clip_id="clip",
            chunk=copy,
            biome=biome,
            weather=weather,
            time_of_day=time,
        )
        for biome, weather, time in scenes
        for copy in range(copies)
    )
    return Gallery(
        entries=entries,
        latents=np.zeros((len(entries), 2, 4, 4, 4), np.int8),
        scales=np.ones((len(entries), 2, 4), np.float32),
        vectors=np.tile(np.arange(384, dtype=np.int8) % 7, (len(entries), 1)),
        pictures=(b"picture",) * len(entries),
        card={"footage": "a game", "licence": "CC0-1.0", "latents_sha256": "0"},
        probes=probes,
    )


def test_dusk_and_dawn_are_one_value(probes):
    assert probes.values == {
        "biome": BIOMES,
        "weather": ("clear", "fog", "rain"),
        "time_of_day": ("day", "night", "twilight"),
    }


@pytest.mark.parametrize(
    ("prompt", "scene"),
    [
        ("under a clear sky, a desert in the middle of the night", ("desert", "clear", "night")),
        ("jungle with rain falling at noon", ("rainforest", "rain", "day")),
        ("bare tundra at sunset in the mist", ("tundra", "fog", "twilight")),
        ("sandy desert in thick fog at dawn", ("desert", "fog", "twilight")),
    ],
)
def test_starts_are_of_the_scene_asked_for_and_differ_by_seed(prompt, scene, probes, encoder):
    scenes = [*itertools.product(BIOMES, WEATHERS, ("day", "twilight", "night"))]
    gallery = gallery_of(scenes, probes, copies=3)
    chosen = {gallery.choose(vector(encoder, prompt), "first", seed).id for seed in range(30)}
    assert chosen == {f"{' '.join(scene)} {copy}" for copy in range(3)}


def test_a_prompt_that_names_no_time_leaves_it_open(probes, encoder):
    told = probes.log_probabilities(vector(encoder, "rainforest"))
    assert probes.values["biome"][int(told["biome"].argmax())] == "rainforest"
    assert np.exp(told["biome"]).max() > 0.8 > np.exp(told["time_of_day"]).max()
    assert np.exp(told["weather"]).sum() == pytest.approx(1)


def test_a_value_that_is_not_known_counts_neither_for_a_start_nor_against_it(probes, encoder):
    prompt = vector(encoder, "rainforest at night")
    place = {"biome": "rainforest", "weather": "fog"}
    scenes = [{**place, "time_of_day": time} for time in ("night", None, "eclipse", "day")]
    night, missing, unknown, day = probes.log_likelihoods(prompt, scenes)
    assert night > missing == unknown > day


def test_probes_are_kept_in_the_file_and_a_gallery_without_them_goes_by_its_captions(
    probes, encoder, tmp_path
):
    gallery = gallery_of([("desert", "clear", "day"), ("desert", "clear", "night")], probes, copies=1)
    prompts = [vector(encoder, prompt) for prompt in ("desert at night", "desert at noon")]
    gallery.save(tmp_path / "with")
    again = Gallery.load(tmp_path / "with")
    assert again.entries == gallery.entries
    for seed, (prompt, time) in itertools.product(range(10), zip(prompts, ("night", "day"), strict=True)):
        assert again.choose(prompt, "first", seed).id == f"desert clear {time} 0"
    dataclasses.replace(gallery, probes=None).save(tmp_path / "without")
    bare = Gallery.load(tmp_path / "without")
    assert bare.probes is None
    assert len({bare.choose(prompts[0], "first", seed).id for seed in range(30)}) == 2


def test_a_built_gallery_knows_the_scenes_of_its_starts(encoder, tmp_path):
    rows = encoded_rows(random_model(), encoder)
    for built in rows:
        night = "night" in built["segments"][0]["prompts"][0]["text"]
        built["time_of_day"] = ["night" if night else "dusk"] * built["num_chunks"]
        built["weather"] = []
        built["biome"] = [""] * built["num_chunks"]
    data, curated = write_encoded(tmp_path / "encoded", rows), write_clips(tmp_path / "curated")
    gallery = build_gallery(data, curated, random_model(), CARD)
    assert gallery.probes is not None and gallery.probes.values == {"time_of_day": ("night", "twilight")}
    for entry in gallery.entries:
        assert entry.time_of_day == ("night" if "night" in entry.caption else "twilight")
        assert (entry.biome, entry.weather) == (None, None)


def test_footage_without_truth_has_no_probes(encoder):
    plain = {**row(0, SCENES[0], encoder), "biome": [], "weather": [""] * 8, "time_of_day": ["day"] * 8}
    assert fit_probes(described_texts([plain])) is None


def test_a_gallery_is_read_without_pytorch():
    code = "import sys; import gamegen.gallery.gallery; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

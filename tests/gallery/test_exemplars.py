"""The shipped gallery's pictures as exemplars."""

import dataclasses

import numpy as np
import pytest

from gamegen.gallery.exemplars import covered_places, exemplars_of, preference, scene_numbers
from gamegen.gallery.gallery import GALLERY_FOLDER, Gallery
from gamegen.media.images import decode_image
from gamegen.models.checkpoint import WEIGHTS_FOLDER
from gamegen.models.text import compose_prompt, load_text_encoder


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return Gallery.load(WEIGHTS_FOLDER / GALLERY_FOLDER)


@pytest.mark.parametrize("perspective", ["first", "third"])
@pytest.mark.parametrize(
    ("prompt", "scene"),
    [
        ("desert at noon", {"biome": "desert", "time_of_day": "day"}),
        ("snowy forest at night", {"time_of_day": "night"}),
    ],
)
def test_a_prompt_prefers_pictures_of_its_scene_and_admits_its_perspective_alone(
    gallery, prompt, scene, perspective
):
    vector = load_text_encoder().encode([compose_prompt(prompt, perspective)])[0].pooled.numpy()
    likely = preference(gallery, vector)
    same = np.array([entry.perspective == perspective for entry in gallery.entries])
    assert np.isfinite(likely[same]).all() and np.isinf(likely[~same]).all()
    assert likely.max() == 0 and likely[same].min() >= -4
    best = gallery.entries[int(likely.argmax())].scene
    assert {name: best[name] for name in scene} == scene


def test_pictures_that_are_only_to_be_looked_at_are_no_exemplars(gallery):
    card = {name: value for name, value in gallery.card.items() if name != "picture_size"}
    assert exemplars_of(dataclasses.replace(gallery, card=card)) is None


def test_the_held_tool_and_the_avatar_are_told_from_the_scenery(gallery):
    pictures = [decode_image(file) for file in gallery.pictures]
    perspectives = [entry.perspective for entry in gallery.entries]
    covered = covered_places(pictures, perspectives)
    rows, columns = covered["first"].shape
    assert covered["first"][-2:, -6].all() and not covered["first"][: rows // 2].any()
    assert covered["third"][rows // 2 : -4, columns // 2].all() and covered["third"].mean() < 0.25
    assert not covered["first"][:, : columns // 2].any()
    assert not covered_places(pictures[:20], perspectives[:20])["first"].any()


def test_scenes_are_numbered_by_their_values(gallery):
    scenes = scene_numbers(gallery)
    biomes = [entry.biome for entry in gallery.entries]
    assert scenes.shape == (len(gallery.entries), 3) and scenes.min() >= 0
    assert len(set(zip(biomes, scenes[:, 0], strict=True))) == len(set(biomes)) == scenes[:, 0].max() + 1
    unknown = tuple(dataclasses.replace(entry, biome=None) for entry in gallery.entries)
    assert set(scene_numbers(dataclasses.replace(gallery, entries=unknown))[:, 0]) == {-1}

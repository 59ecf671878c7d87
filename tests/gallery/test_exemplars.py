"""The shipped gallery's pictures as exemplars."""

import dataclasses

import numpy as np
import pytest

from gamegen.gallery.exemplars import exemplars_of, preference
from gamegen.gallery.gallery import GALLERY_FOLDER, Gallery
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

"""Serving settings, those that are shipped and wrong ones."""

from __future__ import annotations

import dataclasses

import pytest

from deployments.settings import CLUSTER_SETTINGS, ServeSettings, WorldSettings, load_settings


def test_shipped_settings_load_and_nonsense_is_refused():
    settings = load_settings()
    assert settings.world.slots >= settings.ingress.max_sessions
    shares = [settings.ingress, settings.text_encoder, settings.world, settings.decoder, settings.generator]
    assert sum(part.num_cpus for part in shares) <= 1
    with pytest.raises(ValueError, match=r"WorldSettings\.slots = 0"):
        dataclasses.replace(settings.world, slots=0)
    with pytest.raises(ValueError, match=r"most_late_share = 5: use a share"):
        dataclasses.replace(settings.world, most_late_share=5)
    with pytest.raises(ValueError, match="raise the slots"):
        ServeSettings(world=WorldSettings(slots=1))


def test_the_cluster_settings_put_one_of_each_kind_that_plays_on_each_of_two_nodes():
    settings = load_settings(CLUSTER_SETTINGS)
    assert settings.max_replicas_per_node == 1
    parts = (settings.ingress, settings.text_encoder, settings.world, settings.decoder)
    assert [part.replicas for part in parts] == [2, 2, 2, 2]
    # Clips take a hundredth.
    assert sum(part.num_cpus for part in (*parts, settings.generator)) <= 0.99
    # Either replica carries everybody.
    assert settings.world.slots >= settings.ingress.max_sessions

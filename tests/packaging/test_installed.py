"""An installed wheel works as the repository does, in a folder with a space, an apostrophe and an umlaut."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gamegen.config import config_names
from gamegen.media.mp4 import read_mp4
from gamegen.models.checkpoint import load_checkpoint
from tests.conftest import Done
from tests.packaging.conftest import Used


@pytest.mark.parametrize("name", ["info", "sizes", "rollout", "generate", "training", "train", "play"])
def test_every_command_ends_well(used: Used, name: str) -> None:
    outcome = used.outcomes[name]
    assert outcome.returncode == 0, outcome.output
    assert "Traceback" not in outcome.output, outcome.output


def test_shipped_settings_and_weights_are_found(used: Used) -> None:
    assert all(name in used.outcomes["sizes"].output for name in (*config_names("models"), "the paper"))
    assert "Minetest" in used.outcomes["info"].output
    assert all(name in used.outcomes["train"].output for name in ("instructnet", "--workers"))


def test_worlds_clips_and_checkpoints_come_out(used: Used) -> None:
    assert (used.folder / "played.png").stat().st_size > 0
    assert len(read_mp4(used.folder / "clip.mp4")) == 10
    assert load_checkpoint(used.folder / "trained", "cpu").card["steps"] == 2


def test_a_server_starts_and_draws_a_clip(used: Used) -> None:
    assert "ready in" in used.outcomes["play"].output
    assert len(read_mp4(used.folder / "ordered.mp4")) == 4


def test_ordered_clips_are_signed_and_those_of_the_terminal_are_not(
    used: Used, gamegen: Callable[..., Done]
) -> None:
    assert "'verify', 'ordered.mp4'] ended with 0" in used.outcomes["play"].output
    assert "absent" in gamegen("verify", str(used.folder / "clip.mp4")).stdout

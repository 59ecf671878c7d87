"""Stages on a real Ray Train, from shards to a checkpoint that draws."""

from pathlib import Path

import pytest

from gamegen.config import to_dict
from gamegen.controls import Control
from gamegen.curation.curate import CurationConfig
from gamegen.models.checkpoint import load_checkpoint, read_card
from gamegen.models.instructnet import InstructNetConfig
from gamegen.models.inverse_dynamics import InverseDynamicsConfig, load_inverse_dynamics
from gamegen.models.msdit import MSDiTConfig
from gamegen.models.vae import VAEConfig
from gamegen.training.config import DecoderLossConfig, InverseDynamicsLossConfig, StageConfig, VAELossConfig
from gamegen.world import World
from jobs import curate, encode, train
from tests.footage_samples import make_clip, panning_frames, write_footage


def stage_file(folder: Path, name: str, steps: int) -> str:
    import yaml

    config = StageConfig(
        name,  # type: ignore[arg-type]
        steps=steps,
        batch_size=2,
        window=3,
        log_every=1,
        save_every=2,
        vae=VAEConfig.tiny(),
        foundation_model=MSDiTConfig.tiny(),
        instructnet_model=InstructNetConfig.tiny(),
        vae_loss=VAELossConfig(crop=32),
        decoder_loss=DecoderLossConfig(crop=32),
        idm_model=InverseDynamicsConfig.tiny(),
        idm_loss=InverseDynamicsLossConfig(redrawn_clips=0.0),
    )
    file = folder / f"{name}.yaml"
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in to_dict(config).items()}
    file.write_text(yaml.safe_dump(_plain(plain)))
    return str(file)


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


@pytest.fixture(scope="module")
def curated(ray_cluster, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("train")
    clips = [make_clip(root / "footage", f"clip-{i}", panning_frames(seed=i), world_seed=i) for i in range(6)]
    write_footage(root / "footage", clips)
    config = curate.with_sizes(CurationConfig(clips_per_shard=1), ["80x48"])
    curate.run(root / "footage", root / "curated", config)
    return root / "curated"


def test_every_stage_from_shards_to_a_world(curated, tmp_path):
    vae = train.run(stage_file(tmp_path, "vae", 2), curated, tmp_path / "vae")
    encode.run(curated, tmp_path / "encoded", str(vae))
    init = vae
    for name, workers in (("foundation", 2), ("instructnet", 1), ("turbo", 1)):
        file = stage_file(tmp_path, name, 2)
        init = train.run(file, tmp_path / "encoded", tmp_path / name, str(init), workers=workers)
        card = load_checkpoint(init, "cpu").card
        assert (card["stage"], card["steps"]) == (name, 2)
        assert (init / "curves.png").is_file() and list((init / "sheets").glob("*.png"))
    decoders = train.run(stage_file(tmp_path, "decoder", 2), curated, tmp_path / "decoder", str(init))
    world = World.load(decoders)
    world.reset("a desert")
    assert world.step(Control({"w"})).shape == (4, 96, 160, 3)
    # Run again with more steps, it goes on from where it was.
    train.run(stage_file(tmp_path, "turbo", 3), tmp_path / "encoded", init, str(tmp_path / "instructnet"))
    assert load_checkpoint(init, "cpu").card["steps"] == 3


def test_inverse_dynamics_learns_on_the_same_shards(curated, tmp_path):
    folder = train.run(stage_file(tmp_path, "idm", 2), curated, tmp_path / "idm", workers=2)
    model = load_inverse_dynamics(folder, "cpu")
    assert read_card(folder)["steps"] == 2
    assert model.predict(panning_frames(9)).keys.shape == (8, 7)
    assert model.config.key_thresholds != InverseDynamicsConfig.tiny().key_thresholds


def test_missing_shards_are_said(ray_cluster, tmp_path):
    with pytest.raises(FileNotFoundError, match="run the curate and encode jobs first"):
        train.run("vae", tmp_path, tmp_path / "out")

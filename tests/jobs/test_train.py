"""Stages on a real Ray Train, from shards to a checkpoint that draws."""

from pathlib import Path
from typing import Any

import pytest

from gamegen.config import to_dict
from gamegen.controls import Control
from gamegen.curation.curate import CurationConfig
from gamegen.models.checkpoint import load_checkpoint, read_card
from gamegen.models.inverse_dynamics import InverseDynamicsConfig, load_inverse_dynamics
from gamegen.models.model import ModelConfig
from gamegen.training.loop import Run
from gamegen.training.recorded_windows import InverseDynamicsLossConfig
from gamegen.training.run_stage import run_stage
from gamegen.training.stage_config import TrainingBucket
from gamegen.training.stages.decoder import DecoderLossConfig
from gamegen.training.stages.table import STAGES, load_stage
from gamegen.training.stages.vae import VAELossConfig
from gamegen.world import World
from jobs import curate, encode, train
from tests.footage_samples import make_clip, panning_frames, write_footage


def stage_file(folder: Path, name: str, steps: int) -> str:
    import yaml

    sizes = folder / "tiny.yaml"
    sizes.write_text(yaml.safe_dump(_plain(to_dict(ModelConfig.tiny()))))
    own: dict[str, Any] = {
        "vae": {"vae_loss": VAELossConfig(crop=32)},
        "decoder": {"decoder_loss": DecoderLossConfig(crop=32)},
        "idm": {
            "idm_model": InverseDynamicsConfig.tiny(),
            "idm_loss": InverseDynamicsLossConfig(redrawn_clips=0.0),
        },
    }
    config = STAGES[name](
        model=str(sizes),
        steps=steps,
        batch_size=2,
        micro_batches=2,
        buckets=(TrainingBucket("80x48", 12),),
        log_every=1,
        save_every=2,
        **own.get(name, {}),
    )
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(_plain(to_dict(config))))
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


@pytest.mark.parametrize("two_on_ray", [False, pytest.param(True, marks=pytest.mark.long)])
def test_every_stage_from_shards_to_a_world(curated, tmp_path, two_on_ray):
    """Pixels on Ray, and in the long one latents too, with two workers; the other stages in this process, which comes
    to the same, as tests/jobs/test_fault_tolerance.py shows of latents and of two workers."""
    init = train.run(stage_file(tmp_path, "vae", 2), curated, tmp_path / "vae", threads=1)
    encoded = tmp_path / "encoded"
    encode.run(curated, encoded, str(init))
    for name in ("foundation", "instructnet", "turbo", "decoder"):
        file, output = stage_file(tmp_path, name, 2), tmp_path / name
        data = curated if name == "decoder" else encoded
        if two_on_ray and name == "foundation":
            init = train.run(file, data, output, str(init), workers=2)
        else:
            init = run_stage(load_stage(Path(file)), data, Run(output=output, show_progress=False), str(init))
    for name in ("vae", "foundation", "instructnet", "turbo", "decoder"):
        card = load_checkpoint(tmp_path / name, "cpu").card
        assert (card["stage"], card["steps"]) == (name, 2)
        assert "Curves" in (tmp_path / name / "run.html").read_text()
        assert list((tmp_path / name / "sheets").glob("*.png"))
    world = World.load(init)
    world.reset("a desert")
    assert world.step(Control({"w"})).shape == (4, 32, 32, 3)


@pytest.mark.parametrize("on_ray", [False, pytest.param(True, marks=pytest.mark.long)])
def test_inverse_dynamics_learns_on_the_same_shards(curated, tmp_path, on_ray):
    """The short one trains in this process, as vae and foundation above show that Ray does; the long one on Ray."""
    file, output = stage_file(tmp_path, "idm", 2), tmp_path / "idm"
    if on_ray:
        folder = train.run(file, curated, output, workers=2)
    else:
        folder = run_stage(load_stage(Path(file)), curated, Run(output=output, show_progress=False))
    model = load_inverse_dynamics(folder, "cpu")
    assert read_card(folder)["steps"] == 2
    assert model.predict(panning_frames(9)).keys.shape == (8, 7)
    assert model.config.key_thresholds != InverseDynamicsConfig.tiny().key_thresholds


def test_missing_shards_are_said(ray_cluster, tmp_path):
    with pytest.raises(FileNotFoundError, match="run the curate and encode jobs first"):
        train.run("vae", tmp_path, tmp_path / "out")

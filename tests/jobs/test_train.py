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


def test_every_stage_from_shards_to_a_world(curated, tmp_path):
    """Pixels and latents on Ray, with one worker and with two; the other stages in this process, which comes to the
    same (tests/jobs/test_fault_tolerance.py)."""
    vae = train.run(stage_file(tmp_path, "vae", 2), curated, tmp_path / "vae", threads=1)
    encode.run(curated, tmp_path / "encoded", str(vae))
    file = stage_file(tmp_path, "foundation", 2)
    init = train.run(file, tmp_path / "encoded", tmp_path / "foundation", str(vae), workers=2)
    for name, data in (("instructnet", "encoded"), ("turbo", "encoded"), ("decoder", None)):
        config = load_stage(Path(stage_file(tmp_path, name, 2)))
        output = Run(output=tmp_path / name, show_progress=False)
        init = run_stage(config, tmp_path / data if data else curated, output, str(init))
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

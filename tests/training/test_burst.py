"""Bursts: a pack trains to a world by itself, stage after stage, with little installed, and goes on when stopped."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from gamegen.config import config_names, to_dict
from gamegen.curation import encode, encoded
from gamegen.curation.packed import MAX_PIECE_BYTES
from gamegen.curation.row_groups import column_by_group, read_rows_of, shard_files
from gamegen.models.checkpoint import load_checkpoint, save_checkpoint
from gamegen.models.folding import from_pixels
from gamegen.models.model import Model, ModelConfig
from gamegen.models.motion import MotionConfig
from gamegen.models.text import TextStates
from gamegen.training.burst import NOT_YET, Burst, verify_pack
from gamegen.training.burst_plan import load_plan, plan_file
from gamegen.training.discriminator import DiscriminatorConfig
from gamegen.training.pack import write_pack
from tests.footage_samples import panning_frames
from tests.training.samples import curated_folder, write_rows

SIZE = "64x48"
ABSENT = (
    *(
        "PIL",
        "av",
        "boto3",
        "botocore",
        "onnxruntime",
        "pandas",
        "pyarrow",
        "pydantic",
        "pydantic_core",
        "pygments",
    ),
    *("ray", "scipy", "simplejpeg", "tensorboardX", "transformers", "typer"),
)
"""Packages that a bare machine lacks."""
PROGRAM = f"""
import sys, runpy
sys.modules.update(dict.fromkeys({ABSENT!r}))
runpy.run_module("gamegen.training.burst", run_name="__main__", alter_sys=True)
import gamegen, rich, yaml
assert all(module.__file__.startswith({{pack!r}}) for module in (gamegen, rich, yaml))
"""


class RandomText:
    """A stand-in for the text encoder."""

    def encode(self, texts):
        return [TextStates(torch.randn(3, 384), torch.zeros(384)) for _ in texts]


def settings(name: str, num_frames: int, **changes):
    return {
        "stage": name,
        "steps": 2,
        "batch_size": 2,
        "buckets": [{"size": SIZE, "num_frames": num_frames}],
        "log_every": 1,
        "save_every": 2,
        "validation_batches": 0,
        **changes,
    }


def tiny_plan(folder, init):
    """A plan of all the stages that a world goes through, of two steps each."""
    sizes = folder / "tiny.yaml"
    sizes.write_text(json.dumps(to_dict(ModelConfig.tiny())))
    stages = [
        settings("motion", 8),
        settings("foundation", 12, model=str(sizes)),
        settings("instructnet", 12, model=str(sizes)),
        settings("turbo", 12, turbo={"num_levels": 4}),
        settings("streaming", 12, streaming_loss={"discriminator": to_dict(DiscriminatorConfig.tiny())}),
    ]
    plan = {"init": str(init), "keep": ["motion"], "stages": [{"minutes": 5, "settings": s} for s in stages]}
    file = folder / "plan.yaml"
    file.write_text(json.dumps(plan))
    return file


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A pack of a few clips with a tiny model."""
    folder = tmp_path_factory.mktemp("burst")
    videos = [panning_frames(24, seed)[:, :48, :64].copy() for seed in range(4)]
    curated = curated_folder(folder / "curated", videos, [{"keys": [["d"]] * 24, "yaw_deg": [1.2] * 24}] * 4)
    torch.manual_seed(0)
    tiny = ModelConfig.tiny()
    vae = replace(tiny.vae, linear_encoder=True)
    model = Model(replace(tiny, vae=vae, motion=MotionConfig.tiny(), width=64, height=48))
    model.vae.initialise_from_patches(from_pixels(torch.from_numpy(videos[0]))[None])
    save_checkpoint(folder / "init", model.config, model.state_dict(), {"stage": "random"})
    rows = [
        encoded.encode_row(read_rows_of(file, 0, [0])[0], model.eval(), RandomText(), "0")
        for file in shard_files(curated, "train")
    ]
    data = write_rows(folder / "encoded", rows, clips_per_shard=1)
    encode.write_statistics(data)
    plan = tiny_plan(folder, folder / "init")
    write_pack(data=data, curated=curated, plan=plan, output=folder / "pack")
    return folder / "pack"


def test_a_burst_goes_on_where_it_was_stopped_and_needs_little_that_is_installed(
    packed, tmp_path, monkeypatch
):
    def stop(stage, minutes, row):
        if stage.stage == "foundation":
            os.kill(os.getpid(), signal.SIGTERM)

    burst = Burst(packed, tmp_path / "out")
    monkeypatch.setattr(burst, "_print", stop)
    with pytest.raises(KeyboardInterrupt):
        burst.run()
    done = {folder.parent.name for folder in (tmp_path / "out").glob("*/done")}
    assert done == {"1-motion"}

    command = [sys.executable, "-c", PROGRAM.format(pack=str(packed)), "--data", "."]
    ended = subprocess.run(
        [*command, "--output", str(tmp_path / "out")], cwd=packed, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "stage 2 of 5: foundation" in ended.stdout and "stage 1 of 5" not in ended.stdout
    rows = (tmp_path / "out" / "2-foundation" / "log.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2]

    world = load_checkpoint(tmp_path / "out", "cpu")
    assert world.model.instructnet is not None and world.config.sampling.solver == "consistency"
    assert world.config.foundation.motion_compensation and world.config.vae.streaming_reference
    # What the trained motion network foresees is not what was packed.
    before, after = (
        [
            read_rows_of(file, group, range(len(ids)))
            for file in shard_files(folder / "encoded", "train")
            for group, ids in enumerate(column_by_group(file, "clip_id"))
        ]
        for folder in (packed, tmp_path / "out")
    )
    for (row,), (other,) in zip(before, after, strict=True):
        assert row["latents"] == other["latents"] and row["compensated"] != other["compensated"]


def test_time_that_is_up_is_no_error_but_an_exit_code_of_its_own(packed, tmp_path, monkeypatch, capsys):
    from gamegen.training import burst

    monkeypatch.setattr(
        sys, "argv", ["burst", "--data", str(packed), "--output", str(tmp_path), "--minutes", "0"]
    )
    monkeypatch.setattr(burst, "verify_pack", lambda data: signal.pause())
    with pytest.raises(SystemExit) as ended:
        burst.main()
    assert ended.value.code == NOT_YET and "run the same command again" in capsys.readouterr().err


def test_a_pack_is_of_small_files_and_tells_of_a_damaged_one(packed, tmp_path):
    files = [file for file in packed.rglob("*") if file.is_file()]
    assert all(file.stat().st_size <= MAX_PIECE_BYTES for file in files)
    assert (packed / "licences" / "einops").is_dir()
    verify_pack(packed)
    code = packed / "gamegen" / "flow.py"
    text = code.read_text()
    code.write_text(text + "\n")
    try:
        with pytest.raises(ValueError, match=r"flow.py is damaged"):
            verify_pack(packed)
    finally:
        code.write_text(text)


def test_shipped_plans_load_and_take_no_more_than_twelve_minutes():
    assert config_names("bursts")
    for name in config_names("bursts"):
        plan = load_plan(plan_file(name))
        assert sum(stage.minutes for stage in plan.stages) <= 12
        assert plan.reads("curated") and plan.reads("encoded")
    with pytest.raises(ValueError, match="no training plan 'year'"):
        plan_file("year")

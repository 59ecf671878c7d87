"""`gamegen bench` at its smallest, and the arithmetic of its figures."""

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from gamegen.bench.paired import Measured, measure, ratio
from gamegen.bench.workloads import PROMPT
from gamegen.cli import app
from gamegen.engine.variants import Variant
from gamegen.media.mp4 import write_mp4
from gamegen.models.checkpoint import read_config, save_random
from gamegen.models.counts import chunk_pass_flops
from gamegen.models.motion import MotionConfig
from gamegen.models.text import load_text_encoder
from tests.picture_samples import moving_square


def bench(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["bench", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_chunks_of_play_side_by_side(tiny_model, tmp_path):
    name, file = str(tiny_model), tmp_path / "world.json"
    variants = [f"{name}:num_steps=1", f"{name}:num_steps=6,sessions=2", f"{name}:precision=int8"]
    shown = bench(
        "world",
        variants[0],
        "--compare",
        variants[1],
        "--compare",
        variants[2],
        "--rounds",
        "4",
        "--json",
        str(file),
    )
    for words in ("denoise", "commit", "decode", "jpeg", "p99", "of the peak", "times the frames a second"):
        assert words in shown, words
    report = json.loads(file.read_text())
    one, six, _ = report["results"]
    assert [r["variant"] for r in report["results"]] == variants
    # Six passes and the one that commits, for two worlds, beside one pass and that one.
    config, prompt = read_config(name), load_text_encoder("minilm").encode([PROMPT])[0]
    one_pass = chunk_pass_flops(config, len(prompt.tokens)).total
    assert six["flop_per_round"] == 2 * one["flop_per_round"] + 10 * one_pass
    for result in report["results"]:
        stages = dict(result["stages_ms"])
        total = stages.pop("total")
        assert total["mean"] == pytest.approx(sum(stage["mean"] for stage in stages.values()))
        assert total["p50"] <= total["p95"] <= total["p99"]
        assert result["memory_bytes"] > 2**20
    assert set(report["ratios"]) == set(variants[1:])
    assert six["frames_per_s"] == pytest.approx(8000 / six["stages_ms"]["total"]["mean"])


def test_clips(tiny_model, tmp_path):
    file = tmp_path / "clip.json"
    name = str(tiny_model)
    shown = bench(
        "clip", name, "--compare", f"{name}:solver=euler,num_steps=3,guidance_scale=2", "--frames", "6",
        "--rounds", "2", "--json", str(file),
    )  # fmt: skip
    assert "text" in shown and "denoise" in shown
    few, many = json.loads(file.read_text())["results"]
    assert many["stages_ms"]["denoise"]["mean"] > 0 and few["frames_per_s"] > 0


def test_the_autoencoder_at_another_size(tiny_model):
    assert "decode, streaming" in bench("vae", f"{tiny_model}:size=64x48", "--rounds", "2")


def test_motion_of_a_model_that_has_it(tiny_model, tmp_path):
    config = dataclasses.replace(read_config(tiny_model), motion=MotionConfig.tiny())
    save_random(tmp_path, config)
    assert "warp" in bench("motion", str(tmp_path), "--rounds", "2")
    result = CliRunner().invoke(app, ["bench", "motion", str(tiny_model)])
    assert "train one with gamegen train motion" in str(result.exception)


def test_a_size_of_the_configs_is_measured_with_random_weights():
    model = Variant.parse("base:num_steps=3").load_or_draw()
    assert model.config.sampling.num_steps == 3 and model.config.foundation.width == 768


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nano:steps=3", "unknown key 'steps'"),
        ("nano:num_steps", "write KEY=VALUE"),
        ("nano:precision=int3", "must be one of native"),
        ("nano:sessions=0", "at least 1"),
        ("nano:size=100x100", "multiple of 16"),
        ("nano:num_steps=many", "num_steps"),
        ("nano:decoder_reference=sometimes", "must be true or false"),
        ("nothing", "nothing"),
    ],
)
def test_a_variant_that_cannot_be_read_is_named(text, words):
    with pytest.raises(ValueError, match=words):
        Variant.parse(text).load_or_draw()


class Fixed:
    stages = ("a", "b")
    flop_per_round = 100.0

    def __init__(self, seconds: float, frames: int) -> None:
        self.seconds, self.frames_per_round, self.rounds = seconds, frames, 0

    def round(self):
        self.rounds += 1
        return self.seconds, self.seconds


def test_rounds_take_turns_and_ratios_count_frames():
    slow, quick = Fixed(0.2, 4), Fixed(0.1, 8)
    results = measure({"slow": slow, "quick": quick}, rounds=5)
    assert slow.rounds == quick.rounds == 7
    assert results[0].fps == pytest.approx(10) and results[1].fps == pytest.approx(40)
    assert results[1].flops_per_s == pytest.approx(500)
    found = ratio(results[1], results[0])
    assert found.value == found.low == found.high == pytest.approx(4)
    with pytest.raises(ValueError, match="at least 2"):
        measure({"slow": slow}, rounds=1)


def test_the_interval_of_a_ratio_widens_with_the_noise():
    rng = np.random.default_rng(0)

    def measured(noise: float) -> Measured:
        seconds = 0.1 + noise * rng.random((50, 1))
        return Measured("x", ("a",), seconds, 4, 1.0, 0, "")

    steady, noisy = ratio(measured(0.001), measured(0.001)), ratio(measured(0.1), measured(0.1))
    assert noisy.high - noisy.low > 10 * (steady.high - steady.low)
    assert steady.low < 1.01 and steady.high > 0.99


def test_layers_are_listed_with_their_errors(tiny_model):
    shown = bench("layers", str(tiny_model))
    assert "foundation.blocks.0.attention.qkv" in shown and "instructnet.blocks.0.mlp.down" in shown
    decibels = [float(line.split("│")[2]) for line in shown.splitlines() if "blocks." in line]
    assert decibels == sorted(decibels) and min(decibels) > 10


def test_a_precision_that_is_none_is_refused(tiny_model):
    result = CliRunner().invoke(app, ["bench", "layers", str(tiny_model), "--precision", "int4"])
    assert "use int8 or float8" in str(result.exception)


@pytest.mark.long
def test_a_longer_clip_takes_no_more_memory(tiny_model):
    """Of 1 s and of 8 s, each drawn, decoded and written in a process of its own."""
    shown = bench("memory", str(tiny_model), "--seconds", "1", "--seconds", "8").splitlines()
    assert [line.split(":")[0] for line in shown] == ["1 s", "8 s"]
    first, second = (int(line.split()[2]) for line in shown)
    assert 100 < second < 1.05 * first


def test_enlarging_is_compared_on_clips(tmp_path):
    write_mp4(tmp_path / "a.mp4", moving_square(20, 48, 64))
    shown = bench("enlarging", str(tmp_path), "--size", "128x96")
    for words in ("bicubic-backprojection", "lanczos", "dis-optical-flow", "frame before", "PSNR", "128x96"):
        assert words in shown
    failed = CliRunner().invoke(app, ["bench", "enlarging", str(tmp_path / "none")])
    assert failed.exit_code != 0 and "there are no MP4s" in str(failed.exception)

"""The training benchmark at its smallest."""

import io
import json

import pytest
from rich.console import Console

from gamegen.bench.training import BenchConfig, bench_table, bench_training
from gamegen.config import to_dict
from gamegen.models.model import ModelConfig


@pytest.fixture
def tiny(tmp_path) -> str:
    file = tmp_path / "tiny.yaml"
    file.write_text(json.dumps(to_dict(ModelConfig.tiny())))
    return str(file)


def test_steps_of_a_named_size_are_measured_and_shown(tiny):
    config = BenchConfig(model=tiny, num_frames=10, size=(48, 32), batch=3, steps=2)
    result = bench_training(config)
    assert (result.latents.frames, result.latents.rows, result.latents.columns) == (3, 4, 6)
    rates = result.rates
    # Tokens and samples tell of the same steps.
    assert rates["tokens_per_s"] == pytest.approx(rates["samples_per_s"] * result.latents.tokens)
    assert rates["mfu"] > 0 and rates["input_wait_share"] < 0.5
    out = io.StringIO()
    Console(file=out, width=100).print(bench_table(config, result))
    for words in ("samples/s", "tokens/s", "model FLOP utilisation", "measured: best of", "18 tokens"):
        assert words in out.getvalue()


def test_sizes_that_do_not_fit_are_named(tiny):
    with pytest.raises(ValueError, match="multiples of 16"):
        bench_training(BenchConfig(model=tiny, size=(40, 32)))
    with pytest.raises(ValueError, match="no model config 'huge'"):
        bench_training(BenchConfig(model="huge"))

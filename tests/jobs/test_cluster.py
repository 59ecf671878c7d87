"""Jobs check what they are asked before they start Ray."""

from __future__ import annotations

import pytest
import ray
import typer.testing

from jobs import bench, curate, encode, train


@pytest.mark.parametrize(
    ("app", "arguments", "sentence"),
    [
        (
            train.app,
            ["atlantis", "--data", "nowhere", "--output", "out"],
            "no training stage 'atlantis': use one of",
        ),
        (train.app, ["vae", "--data", "nowhere", "--output", "out"], "no training shards under nowhere"),
        (bench.app, ["--data", "nowhere", "--stage", "atlantis"], "no training stage 'atlantis'"),
        (encode.main, ["nowhere", "out", "--vae", "atlantis"], "no checkpoint at 'atlantis'"),
        (curate.main, ["nowhere", "out"], "nowhere"),
    ],
)
def test_a_wrong_job_starts_no_ray(monkeypatch, app, arguments, sentence):
    started = []
    monkeypatch.setattr(ray, "init", lambda *_, **__: started.append(True))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    command = app
    if not isinstance(app, typer.Typer):
        command = typer.Typer()
        command.command()(app)
    done = typer.testing.CliRunner().invoke(command, arguments)
    assert sentence in str(done.exception)
    assert not started

"""What a run shows of itself, and that being watched changes nothing."""

import dataclasses
import json
import struct
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from gamegen.models.checkpoint import load_checkpoint
from gamegen.models.model import Model, ModelConfig
from gamegen.training.curves import chart, number
from gamegen.training.loop import Run, Trainer
from gamegen.training.observe import git_revision
from gamegen.training.stages.stage import Stage
from gamegen.training.validation import HeldOut, held_out, measure
from tests.training.samples import encoded_folder, latent_feed, plain_flow, stage

LEARNING = plain_flow(train_foundation=True)
"""With an untrained foundation held still, InstructNet would learn nothing."""
COMMAND = "gamegen train instructnet --data 'my <footage>'"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return encoded_folder(tmp_path_factory.mktemp("encoded"))


def validation_batches(config: Stage, data: Path):
    windows = config.windows(ModelConfig.tiny())
    return held_out(dataclasses.replace(config, validation_batches=2), data, windows).batches()


def trainer(folder: Path, config: Stage, data: Path, batches=validation_batches, **run) -> Trainer:
    torch.manual_seed(0)
    objective = config.objective(Model(ModelConfig.tiny()))
    held = HeldOut("validation", lambda: batches(config, data)) if batches else None
    run = Run(output=folder, show_progress=False, command=COMMAND, **run)
    return Trainer(objective, config, run, latent_feed(config, data), held)


def events(folder: Path) -> list[Event]:
    """Every event of every file: length, checksum, message, checksum."""
    found = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_the_page_shows_command_config_curves_sheets_and_rates(data, tmp_path):
    pages = []
    config = stage("instructnet")
    trainer(
        tmp_path, config, data, on_log=lambda row: pages.append((tmp_path / "run.html").read_text())
    ).train()
    page = (tmp_path / "run.html").read_text()
    assert "gamegen train instructnet --data &#x27;my &lt;footage&gt;&#x27;" in page
    assert "scheduled_sampling: 0.25" in page and "operation_width: 16" in page
    assert page.count("<svg") == 9 and 'class="s1"' in page
    assert page.count("data:image/jpeg;base64") == 2
    for words in ("samples/s", "tokens/s", "model FLOP utilisation", "input wait share", "measured: best of"):
        assert words in page
    assert "http-equiv" not in page and "ended" in page
    assert len(pages) == 6 and all('http-equiv="refresh"' in before for before in pages)
    assert "http://" not in page and "https://" not in page
    assert not list(tmp_path.glob("*.partial"))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and rows[-1]["samples_per_s"] > 0 and 0 <= rows[-1]["input_wait_share"] <= 1


def test_event_files_hold_the_log_and_the_sheets(data, tmp_path):
    trainer(tmp_path, stage("instructnet"), data).train()
    values = [
        (event.step, value) for event in events(tmp_path / "tensorboard") for value in event.summary.value
    ]
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = {step: value.simple_value for step, value in values if value.tag == "loss/training"}
    assert losses == {row["step"]: pytest.approx(row["loss"]) for row in logged}
    held_out = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    losses = {step: value.simple_value for step, value in values if value.tag == "loss/validation"}
    assert losses == {row["step"]: pytest.approx(row["loss"]) for row in held_out}
    assert [step for step, value in values if value.tag == "sheet" and value.image.width] == [3, 6]


def test_validation_is_of_the_averaged_weights(data, tmp_path):
    config = stage("instructnet", flow=LEARNING, ema_decay=0.5)
    run = trainer(tmp_path, config, data)
    run.train()
    row = json.loads((tmp_path / "validation.jsonl").read_text().splitlines()[-1])
    served = config.objective(load_checkpoint(tmp_path, "cpu").model)
    assert row["step"] == 6
    assert row["loss"] == measure(served, validation_batches(config, data))["loss"]
    assert row["loss"] != measure(run.objective, validation_batches(config, data))["loss"]


@pytest.mark.parametrize("name", ["instructnet", "turbo"])
def test_validation_leaves_training_as_it_is(name, data, tmp_path):
    config = stage(name, flow=LEARNING, steps=4, save_every=2)
    alone = trainer(tmp_path / "alone", config, data, batches=None)
    alone.train()
    first = trainer(tmp_path / "watched", config, data)
    for _ in first.steps():
        if first.step == 2:
            break
    first.finish_writing()
    watched = trainer(tmp_path / "watched", config, data)
    watched.train()
    for found, expected in ((watched._weights(), alone._weights()), (watched.averages, alone.averages)):
        for key, weight in expected.items():
            assert torch.equal(weight, found[key]), key
    assert not (tmp_path / "alone" / "validation.jsonl").exists()


def test_validation_never_holds_up_a_step(data, tmp_path):
    went_on = threading.Event()

    def slow_batches(config: Stage, data: Path):
        # Comes to its end only when training has gone three steps further.
        assert went_on.wait(timeout=120)
        return validation_batches(config, data)

    config = stage("instructnet", steps=8, save_every=2)
    seen = lambda row: went_on.set() if row["step"] == 5 else None  # noqa: E731
    run = trainer(tmp_path, config, data, slow_batches, on_log=seen)
    run.train()
    assert run.step == 8
    validated = [
        json.loads(line)["step"] for line in (tmp_path / "validation.jsonl").read_text().splitlines()
    ]
    assert validated[0] == 2 and 4 not in validated and validated[-1] == 8
    assert (
        "no validation at step 4: the one before it was still running" in (tmp_path / "run.html").read_text()
    )


def test_a_failed_validation_is_noted_and_training_goes_on(data, tmp_path):
    def broken(config: Stage, data: Path):
        raise OSError("the shard is gone")

    trainer(tmp_path, stage("instructnet"), data, broken).train()
    page = (tmp_path / "run.html").read_text()
    assert "validation at step 3 failed: OSError(&#x27;the shard is gone&#x27;)" in page
    assert load_checkpoint(tmp_path, "cpu").card["steps"] == 6


def test_a_resumed_run_keeps_its_curves_and_sheets(data, tmp_path):
    trainer(tmp_path, stage("instructnet", steps=3), data).train()
    trainer(tmp_path, stage("instructnet", steps=6), data).train()
    page = (tmp_path / "run.html").read_text()
    assert "sample sheet at step 3" in page and "sample sheet at step 6" in page
    steps = [json.loads(line)["step"] for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert steps == [3, 6]


def test_charts_bear_single_points_flat_lines_and_what_is_not_a_number():
    assert chart("x", {"a": []}) == "" == chart("x", {"a": [(1, float("nan"))]})
    assert "<circle" in chart("x", {"a": [(1, 2.0)]})
    flat = chart("a < b", {"a": [(1, 2.0), (2, 2.0)]})
    assert "a &lt; b" in flat and "nan" not in flat
    long = chart("x", {"a": [(i, i % 7) for i in range(5000)]})
    assert len(long) < 8000
    assert [number(v) for v in (0, 0.1234, 56789, 1.5e9, float("inf"))] == [
        "0",
        "0.123",
        "56,789",
        "1.50e+09",
        "-",
    ]


def test_the_revision_is_that_of_the_code_and_not_of_the_repository_around_it(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    kept, installed = tmp_path / "kept.py", tmp_path / ".venv" / "observe.py"
    installed.parent.mkdir()
    for file in (kept, installed):
        file.write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run([*git, "add", "kept.py"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    assert len(git_revision(kept) or "") == 40
    assert git_revision(installed) is None
    assert git_revision(Path("/")) is None

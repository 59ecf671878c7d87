"""`gamegen models`, run as people run it."""

import pytest

from gamegen.evaluation.evaluation_report import EvaluationReport, Figure, write_report
from gamegen.evaluation.metrics import TURNS
from gamegen.models.checkpoint import WEIGHTS_FILE, read_card, save_random
from gamegen.models.model import ModelConfig


@pytest.fixture
def models(gamegen, tmp_path, monkeypatch):
    monkeypatch.setenv("OBJECT_STORE_URL", str(tmp_path / "store"))
    return lambda *arguments: gamegen("models", *arguments)


def test_from_a_checkpoint_to_the_served_version_and_back(models, tmp_path):
    assert "no models" in models("list").stdout
    for seed, turns in ((1, 0.5), (2, 0.9)):
        folder, report = tmp_path / str(seed), tmp_path / f"{seed}.json"
        save_random(folder, ModelConfig.tiny(), seed)
        sha256 = read_card(folder)["sha256"][WEIGHTS_FILE]
        figure = Figure(value=turns, low=turns, high=turns, units="4 seeds from 0", replicates=(turns,) * 4)
        write_report(
            EvaluationReport(checkpoint="mine", weights_sha256=sha256, figures={TURNS: figure}), report
        )
        assert models("add", "mine", str(folder), "--report", str(report)).returncode == 0
        promoted = models("promote", "mine", str(seed))
        assert promoted.returncode == 0, promoted.stderr
    assert f"{TURNS}: 0.500 [0.500, 0.500] -> 0.900" in promoted.stdout
    listed = models("list").stdout
    assert "mine" in listed and "yes" in listed
    assert "0.900" in models("show", "mine").stdout
    again = models("promote", "mine", "1")
    assert again.returncode == 2 and "does not beat" in again.stderr
    assert "version 1 is current again" in models("rollback", "mine").stdout
    assert models("fetch", "mine", str(tmp_path / "out")).returncode == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_an_evaluation_is_what_the_registry_takes(gamegen, models, tiny_model, tmp_path):
    out = tmp_path / "evaluation"
    done = gamegen("evaluate", str(tiny_model), "--seeds", "2", "--no-long-play", "--output", str(out))
    assert done.returncode == 0, done.stderr
    assert (out / "sheet.png").is_file() and (out / "report.html").is_file()
    added = models("add", "mine", str(tiny_model), "--report", str(out / "report.json"))
    assert added.returncode == 0, added.stderr
    assert "turns: flow left > 0 > right" in models("show", "mine", "--version", "1").stdout


def test_mistakes_are_one_sentence_and_exit_code_2(models, tmp_path):
    for arguments, words in (
        (["show", "mine"], "no model 'mine'"),
        (["add", "mine", str(tmp_path)], "no checkpoint"),
        (["list", "--store", "ftp://x/y"], "s3://bucket/prefix"),
    ):
        done = models(*arguments)
        assert done.returncode == 2 and words in done.stderr, done.stderr

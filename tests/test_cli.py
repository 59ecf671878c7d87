"""The command line, run as people run it, on a tiny model of random weights."""

import subprocess
import sys
from pathlib import Path

import pytest

from gamegen.media.mp4 import read_mp4
from gamegen.models.checkpoint import save_random
from gamegen.models.model import ModelConfig


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_random(folder, ModelConfig.tiny())
    return str(folder)


def test_generate_writes_the_frames_asked_for(model, tmp_path):
    clip = tmp_path / "clip.mp4"
    command = [sys.executable, "-m", "gamegen.cli", "generate", "a desert", "-o", str(clip), "--model", model]
    done = subprocess.run(
        [*command, "--frames", "10"], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert read_mp4(clip).shape == (10, 32, 32, 3)


def test_rollout_follows_a_script(gamegen, model, tmp_path):
    clip = tmp_path / "out.mp4"
    done = gamegen(
        *("rollout", "--prompt", "a desert", "--keys", "w*6,left+w*4,none*3", "--instruct", "4:make it rain"),
        *("-o", str(clip), "--model", model),
    )
    assert done.returncode == 0, done.stderr
    assert len(read_mp4(clip)) == 13


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["generate", "x", "--frames", "0"], "or equal to 1"),
        (["generate", "x", "--size", "101x96"], "even width"),
        (["generate", "x", "--size", "big"], "WIDTHxHEIGHT"),
        (["generate", "x", "--perspective", "second"], "first, third"),
        (["generate", "word " * 400], "limit is 300"),
        (["rollout", "--prompt", "x", "--keys", "w*4,z*4"], "unknown key 'z'"),
        (["rollout", "--prompt", "x", "--keys", "w"], "KEYS*FRAMES"),
        (["rollout", "--prompt", "x", "--keys", "w*4", "--instruct", "9:rain"], "after the last"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(gamegen, arguments, sentence, model, tmp_path):
    done = gamegen(*arguments, "-o", str(tmp_path / "x.mp4"), "--model", model)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_damaged_checkpoint(gamegen, model, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in Path(model).iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes(b"not a checkpoint")
    done = gamegen("generate", "x", "-o", str(tmp_path / "x.mp4"), "--model", str(broken))
    assert done.returncode == 2
    assert "damaged" in done.stderr


def test_info_and_help(gamegen, model):
    done = gamegen("info", "--model", model)
    assert done.returncode == 0 and "foundation" in done.stdout
    other = gamegen("info", "--model", "idm")
    assert other.returncode == 0 and "weights" in other.stdout
    for command in ("world", "clip", "vae", "train", "ray", "serve", "recovery"):
        assert "xample" in gamegen("bench", command, "--help").stdout, command
    for command in ("play", "generate", "rollout", "replay", "record", "curate", "encode", "train", "info"):
        shown = gamegen(command, "--help").stdout
        assert "xample" in shown, command

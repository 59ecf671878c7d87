"""`gamegen replay` and `gamegen rollout --save`, on a tiny model of random weights."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gamegen.controls import Control
from gamegen.footage.clips import read_table
from gamegen.media.mp4 import read_mp4
from gamegen.replay import command
from gamegen.sessions import log_file
from gamegen.sessions.log import LoggedInstruction, SessionLog, WorldSpec
from gamegen.sessions.log_file import from_json, to_json


@pytest.fixture
def saved(tiny_model: Path, tmp_path: Path) -> Path:
    """A session of six chunks."""
    spec = WorldSpec(
        model=str(tiny_model), prompt="a desert", perspective="first", seed=3, width=32, height=32
    )
    log = SessionLog(
        spec, [Control({"w"})] * 4 + [Control({"left"})] * 2, [LoggedInstruction(2, "make it rain")]
    )
    path = tmp_path / "session.json"
    path.write_text(to_json(log))
    return path


def test_a_saved_rollout_is_drawn_again(gamegen, tiny_model, tmp_path):
    session, rolled, again = (tmp_path / name for name in ("session.json", "rolled.png", "again.png"))
    done = gamegen(
        *("rollout", "--prompt", "a desert", "--keys", "w*8,left+w*4,none*6", "--instruct", "5:make it rain"),
        *("--seed", "4", "-o", str(rolled), "--save", str(session), "--model", str(tiny_model)),
    )
    assert done.returncode == 0, done.stderr
    log = from_json(session.read_text())
    assert log.controls == [Control({"w"})] * 2 + [Control({"left", "w"})] + [Control()] * 2
    assert log.spoken == [LoggedInstruction(1, "make it rain")]
    assert log.spec == WorldSpec(
        model=str(tiny_model), prompt="a desert", perspective="first", seed=4, width=32, height=32
    )
    video = tmp_path / "again.mp4"
    for output in (again, video):
        done = gamegen("replay", str(session), "-o", str(output))
        assert done.returncode == 0, done.stderr
        assert "20 frames of 32x32" in done.stdout
    # The rollout's picture is of 18 frames, whole chunks are 20: the first of them is the same.
    first, second = (np.array(Image.open(path))[:32, :32] for path in (rolled, again))
    np.testing.assert_array_equal(first, second)
    assert read_mp4(video).shape == (20, 32, 32, 3)


def test_a_whole_sheet_equals_that_of_the_rollout(gamegen, tiny_model, tmp_path):
    session, rolled, again = (tmp_path / name for name in ("session.json", "rolled.png", "again.png"))
    script = ("--prompt", "a desert", "--keys", "w*8,s*8", "--instruct", "9:make it rain")
    model = ("--model", str(tiny_model))
    assert gamegen("rollout", *script, "-o", str(rolled), "--save", str(session), *model).returncode == 0
    assert gamegen("replay", str(session), "-o", str(again)).returncode == 0
    np.testing.assert_array_equal(np.array(Image.open(again)), np.array(Image.open(rolled)))


def test_a_part_is_written_and_exported_at_once(gamegen, saved, tmp_path):
    part, whole, footage = tmp_path / "part.mp4", tmp_path / "whole.mp4", tmp_path / "footage"
    done = gamegen(
        *("replay", str(saved), "--from", "2", "--until", "5", "-o", str(part), "--export", str(footage))
    )
    assert done.returncode == 0, done.stderr
    assert "12 frames of footage in 1 clip" in done.stdout
    assert gamegen("replay", str(saved), "-o", str(whole)).returncode == 0
    (clip,) = read_table(footage)
    assert clip.keys == [["w"]] * 7 + [[]] * 5 and clip.instructions[0].text == "make it rain"
    frames = read_mp4(whole).astype(float)
    for video in (part, footage / clip.path):
        written = read_mp4(video).astype(float)
        assert len(written) == 12
        distances = [np.abs(frames[i : i + 12] - written).mean() for i in range(13)]
        assert np.argmin(distances) == 8


def test_another_end_is_played_and_saved(gamegen, saved, tmp_path):
    other, sheet = tmp_path / "other.json", tmp_path / "other.png"
    done = gamegen(
        *(
            "replay",
            str(saved),
            "--branch",
            "3",
            "--keys",
            "s*4,none*8",
            "--save",
            str(other),
            "-o",
            str(sheet),
        )
    )
    assert done.returncode == 0, done.stderr
    log = from_json(other.read_text())
    assert log.controls == [Control({"w"})] * 3 + [Control({"s"})] + [Control()] * 2
    assert log.spoken == [LoggedInstruction(2, "make it rain")]
    assert sheet.exists()


def test_another_model_is_named_in_what_is_saved(gamegen, saved, tmp_path):
    other = tmp_path / "other.json"
    assert gamegen("replay", str(saved), "--model", "nano:num_steps=4", "--save", str(other)).returncode == 0
    assert from_json(other.read_text()).spec.model == "nano:num_steps=4"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "nothing to write: give -o FILE, --export FOLDER or --save FILE"),
        (("-o", "x.gif"), "end it in .mp4"),
        (("-o", "x.mp4", "--until", "7"), "chunk 7: this session has 6"),
        (("-o", "x.mp4", "--from", "6"), "--from 6: nothing is left of 6 chunks, begin at one from 0 to 5"),
        (("-o", "x.mp4", "--from", "-1"), "--from -1"),
        (("-o", "x.mp4", "--branch", "2"), "belong together"),
        (("-o", "x.mp4", "--keys", "w*4"), "belong together"),
        (("-o", "x.mp4", "--branch", "9", "--keys", "w*4"), "chunk 9: this session has 6"),
        (("-o", "x.mp4", "--branch", "2", "--keys", "w*6,s*2"), "keys change at frame 6, inside a chunk"),
        (("-o", "x.mp4", "--model", "nowhere"), "no checkpoint at 'nowhere'"),
    ],
)
def test_wrong_options_are_one_sentence_and_exit_code_2(
    gamegen, saved, tmp_path, monkeypatch, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    done = gamegen("replay", str(saved), *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["session.json"]


def test_rollout_saves_no_script_that_is_no_session(gamegen, tiny_model, tmp_path):
    session = tmp_path / "session.json"
    script = ("--prompt", "x", "--keys", "w*6,left*2", "-o", str(tmp_path / "x.mp4"))
    done = gamegen("rollout", *script, "--save", str(session), "--model", str(tiny_model))
    assert done.returncode == 2 and "keys change at frame 6, inside a chunk" in done.stderr
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_logs(gamegen, saved, tmp_path):
    cut = tmp_path / "cut.json"
    cut.write_text(saved.read_text()[:-20])
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\0")
    for source, says in (
        (cut, "only a part of one"),
        (binary, "not text in UTF-8"),
        (tmp_path, "is a folder"),
        (tmp_path / "none.json", "no such file or directory: check the path"),
    ):
        done = gamegen("replay", str(source), "-o", str(tmp_path / "x.mp4"))
        assert done.returncode == 2 and says in done.stderr and str(source) in done.stderr


@pytest.fixture
def server(saved: Path) -> Iterator[str]:
    """Answers as a GameGen server does, for the sessions `a` (there), `b` (not), `c` (endless)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            error = {"error": {"code": "unknown_session", "message": "no session 'b'"}}
            body = saved.read_bytes() if "/a/" in self.path else json.dumps(error).encode()
            self.send_response(404 if "/b/" in self.path else 200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(body)
                    if "/c/" not in self.path:
                        return
            except OSError:
                return

        def log_message(self, *arguments: object) -> None:
            pass

    service = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=service.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{service.server_port}/v1/sessions"
    service.shutdown()
    thread.join()
    service.server_close()


def test_a_log_is_fetched_from_a_server(gamegen, server, saved, tmp_path):
    sheet, kept = tmp_path / "x.png", tmp_path / "kept.json"
    done = gamegen("replay", f"{server}/a/log", "-o", str(sheet), "--save", str(kept))
    assert done.returncode == 0, done.stderr
    assert sheet.exists() and kept.read_text() == saved.read_text()


def test_what_a_server_does_not_give_is_one_sentence(gamegen, server, monkeypatch, tmp_path):
    output = str(tmp_path / "x.png")
    done = gamegen("replay", f"{server}/b/log", "-o", output)
    assert done.returncode == 2 and "/b/log answers 404 (no session 'b')" in done.stderr
    done = gamegen("replay", "http://127.0.0.1:1/v1/sessions/a/log", "-o", output)
    assert done.returncode == 2 and "cannot be reached" in done.stderr and "running there" in done.stderr
    with monkeypatch.context() as limits:
        limits.setattr(log_file, "MAX_FILE_BYTES", 100_000)
        done = gamegen("replay", f"{server}/c/log", "-o", output)
        assert done.returncode == 2 and "the limit is 100000" in done.stderr
    monkeypatch.setattr(command, "FETCH_TIMEOUT_S", 0.0)
    done = gamegen("replay", f"{server}/c/log", "-o", output)
    assert done.returncode == 2 and "not complete after 0 s" in done.stderr

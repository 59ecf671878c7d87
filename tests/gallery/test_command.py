"""`gamegen gallery build` and `sheet`, and worlds that the command line begins from a gallery."""

from __future__ import annotations

import numpy as np
from PIL import Image

from gamegen.gallery.gallery import Gallery
from gamegen.models.checkpoint import load_checkpoint
from gamegen.models.text import load_text_encoder
from gamegen.sessions.log_file import from_json
from gamegen.sessions.start import StartFacts
from tests.conftest import save_tiny
from tests.gallery.samples import encoded_rows, write_clips, write_encoded


def test_built_from_encoded_clips_drawn_on_a_sheet_and_begun_from(gamegen, tmp_path):
    model = tmp_path / "model"
    save_tiny(model)
    rows = encoded_rows(load_checkpoint(model).model, load_text_encoder())
    data = write_encoded(tmp_path / "encoded", rows)
    curated = str(write_clips(tmp_path / "curated"))
    place = ("--curated", curated, "-o", str(model / "gallery"))
    done = gamegen("gallery", "build", str(data), *place, "--model", str(model), "--starts", "7")
    assert done.returncode == 0 and "7 starts of 4 clips in 2 worlds" in done.stdout, done.stderr
    assert len(Gallery.load(model / "gallery").entries) == 7
    sheet = tmp_path / "sheet.png"
    assert gamegen("gallery", "sheet", "-o", str(sheet), "--folder", str(model / "gallery")).returncode == 0
    assert np.asarray(Image.open(sheet)).std() > 10
    save = tmp_path / "log.json"
    play = (
        "rollout",
        "--prompt",
        "a desert",
        "--keys",
        "w*8",
        "--model",
        str(model),
        "-o",
        str(tmp_path / "a.mp4"),
    )
    assert gamegen(*play, "--save", str(save)).returncode == 0
    assert StartFacts.of(from_json(save.read_text()).spec.first_frames).kind == "gallery"
    assert gamegen("replay", str(save), "-o", str(tmp_path / "b.mp4")).returncode == 0
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert gamegen(*play, "--save", str(save), "--start", "drawn").returncode == 0
    assert from_json(save.read_text()).spec.first_frames is None
    assert "use one of gallery, drawn, picture" in gamegen(*play, "--start", "elsewhere").stderr
    assert "give the picture" in gamegen(*play, "--start", "picture").stderr


def test_wrong_requests_say_what_to_do(gamegen, tmp_path):
    build = ("gallery", "build", str(tmp_path), "--curated", str(tmp_path), "-o", str(tmp_path / "g"))
    done = gamegen(*build, "--starts", "1001")
    assert done.returncode == 2 and "1 to 1000" in done.stderr
    done = gamegen(*build)
    assert done.returncode == 2 and "gamegen encode" in done.stderr
    assert "end it in .png" in gamegen("gallery", "sheet", "-o", str(tmp_path / "sheet.jpg")).stderr

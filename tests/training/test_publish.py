"""Published weights load, are half the size, and say what trained them."""

import json

from gamegen.models.checkpoint import ModelConfig, load_checkpoint, save_random
from gamegen.training.publish import publish


def test_the_card_tells_every_stage(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, stage, origin in ((first, "vae", ""), (second, "foundation", str(first))):
        save_random(folder, ModelConfig.tiny())
        card = json.loads((folder / "card.json").read_text())
        card |= {"stage": stage, "steps": 7, "initialised_from": origin}
        (folder / "card.json").write_text(json.dumps(card))
    publish(second, tmp_path / "shipped", {"footage": "walks", "hours": 1.0}, "CC0")
    shipped = load_checkpoint(tmp_path / "shipped", "cpu")
    assert [stage["stage"] for stage in shipped.card["stages"]] == ["vae", "foundation"]
    assert str(tmp_path) not in json.dumps(shipped.card)
    size = (tmp_path / "shipped" / "model.safetensors").stat().st_size
    assert size < 0.6 * (second / "model.safetensors").stat().st_size

"""Published weights load, are half the size, and say what trained them."""

import json

import torch

from gamegen.models.checkpoint import load_checkpoint, read_card, save_checkpoint, save_random
from gamegen.models.inverse_dynamics import InverseDynamics, InverseDynamicsConfig, load_inverse_dynamics
from gamegen.models.model import ModelConfig
from gamegen.training.publish import EVALUATION_FILE, publish, stage_history


def test_the_card_tells_every_stage(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, stage, origin in ((first, "vae", ""), (second, "foundation", str(first))):
        save_random(folder, ModelConfig.tiny())
        card = json.loads((folder / "card.json").read_text())
        card |= {"stage": stage, "steps": 7, "initialised_from": origin}
        (folder / "card.json").write_text(json.dumps(card))
    publish(f"{second}:num_steps=3", tmp_path / "shipped", {"footage": "walks", "hours": 1.0}, "CC0")
    shipped = load_checkpoint(tmp_path / "shipped", "cpu")
    assert [stage["stage"] for stage in shipped.card["stages"]] == ["vae", "foundation"]
    assert shipped.config.sampling.num_steps == 3
    assert str(tmp_path) not in json.dumps(shipped.card)
    size = (tmp_path / "shipped" / "model.safetensors").stat().st_size
    assert size < 0.6 * (second / "model.safetensors").stat().st_size


def test_what_trained_shipped_weights_is_told_of_what_went_on_from_them(tmp_path):
    shipped, run = tmp_path / "shipped", tmp_path / "run"
    for folder, card in (
        (shipped, {"stages": [{"stage": "vae"}, {"stage": "turbo"}]}),
        (run, {"stage": "streaming", "initialised_from": str(shipped)}),
    ):
        save_random(folder, ModelConfig.tiny())
        whole = json.loads((folder / "card.json").read_text()) | card
        (folder / "card.json").write_text(json.dumps(whole))
    assert [stage["stage"] for stage in stage_history(run)] == ["vae", "turbo", "streaming"]
    assert next(stage["stage"] for stage in stage_history("nano")) == "vae"


def test_inverse_dynamics_is_published_with_its_evaluation(tmp_path):
    config = InverseDynamicsConfig.tiny()
    save_checkpoint(
        tmp_path / "run", config, InverseDynamics(config).state_dict(), {"stage": "idm", "steps": 7}
    )
    figures = {"test": {"mygame": {"micro": {"f1": 0.5}}}}
    (tmp_path / "run" / EVALUATION_FILE).write_text(json.dumps(figures))
    publish(tmp_path / "run", tmp_path / "shipped", {"footage": "walks", "hours": 1.0}, "CC0")
    card = read_card(tmp_path / "shipped")
    assert card["evaluation"] == figures and card["stages"][0]["stage"] == "idm"
    run, shipped = (load_inverse_dynamics(tmp_path / name, "cpu") for name in ("run", "shipped"))
    assert shipped.config == config
    torch.testing.assert_close(shipped.keys.weight, run.keys.weight, rtol=0.01, atol=1e-3)

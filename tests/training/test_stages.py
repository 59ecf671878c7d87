"""The table of stages: a new stage is one file and one YAML file, and old settings files load."""

import json
from pathlib import Path

import pytest
import torch

from gamegen.config import config_names, to_dict
from gamegen.models.checkpoint import load_checkpoint, save_random
from gamegen.models.configs import named_config
from gamegen.models.model import Model, ModelConfig
from gamegen.training.loop import Run
from gamegen.training.run_stage import run_stage
from gamegen.training.stages.table import STAGES, build_stage, load_stage, shards_help, stage_file
from tests.training.penalty_stage import PenaltyStage
from tests.training.samples import encoded_folder, latent_feed, plain_flow
from tests.training.samples import stage as short_stage

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


def test_a_new_stage_is_one_file_and_one_yaml_file(tmp_path, monkeypatch):
    monkeypatch.setitem(STAGES, "penalty", PenaltyStage)
    stage = load_stage(HERE / "penalty.yaml")
    assert isinstance(stage, PenaltyStage) and stage.penalty_weight == 0.5
    save_random(tmp_path / "init", ModelConfig.tiny())
    run = Run(output=tmp_path / "run", show_progress=False)
    run_stage(stage, encoded_folder(tmp_path / "data"), run, init=tmp_path / "init")
    trained, before = (load_checkpoint(tmp_path / name, "cpu") for name in ("run", "init"))
    assert (trained.card["stage"], trained.card["steps"]) == ("penalty", 2)
    weights = before.model.state_dict()
    assert any(not torch.equal(weights[name], w) for name, w in trained.model.state_dict().items())
    row = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    # Cost, validation and the run's page come with it.
    assert row["penalty"] > 0 and row["mfu"] > 0
    assert (tmp_path / "run" / "validation.jsonl").is_file()
    assert "penalty_weight: 0.5" in (tmp_path / "run" / "run.html").read_text()


@pytest.mark.parametrize("file", ["penalty_stage.py", "penalty.yaml"])
def test_the_documentation_shows_the_stage_that_is_tested(file):
    assert (HERE / file).read_text() in (REPOSITORY / "docs" / "training.md").read_text()


def test_every_stage_goes_by_its_name():
    for name, stage in STAGES.items():
        assert stage.stage == name
    assert "(vae, decoder, idm, motion, streaming)" in shards_help()


def test_shipped_stages_load_and_wrong_ones_are_named(tmp_path):
    for name in config_names("stages"):
        config = load_stage(stage_file(name))
        assert name.endswith(config.stage) and named_config(config.model).foundation
    with pytest.raises(ValueError, match="no training stage 'gan'"):
        stage_file("gan")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("stage: vae\nspeed: 3\n")
    with pytest.raises(ValueError, match=r"wrong.yaml: unknown key 'speed'"):
        load_stage(wrong)
    wrong.write_text("stage: gan\n")
    with pytest.raises(ValueError, match=r"wrong.yaml: stage = 'gan': expected one of vae, foundation"):
        load_stage(wrong)


def test_a_file_with_the_settings_of_every_stage_loads_as_each():
    """Checkpoint cards of earlier versions list all of them."""
    settings = {key: value for stage in STAGES.values() for key, value in to_dict(stage()).items()}
    for name, stage in STAGES.items():
        assert build_stage(settings | {"stage": name}, "card") == stage()


def test_a_stage_that_builds_on_another_asks_for_it(tmp_path):
    for name in ("foundation", "instructnet", "turbo", "sparse", "decoder"):
        with pytest.raises(ValueError, match=f"the {name} stage builds on another: pass its checkpoint"):
            STAGES[name]().build_model(None, tmp_path, tmp_path)


def test_earlier_names_of_settings_still_load():
    settings = {"stage": "instructnet", "visits": 3, "flow": {"own_predictions": 0.5, "own_start": 0.0}}
    stage = build_stage(settings, "old.yaml")
    assert stage.repeats == 3
    assert (stage.flow.scheduled_sampling, stage.flow.scheduled_sampling_start) == (0.5, 0.0)
    with pytest.raises(ValueError, match="'visits' is the earlier name of 'repeats'"):
        build_stage(settings | {"repeats": 2}, "old.yaml")


def test_high_noise_levels_count_more_in_the_loss_the_higher_the_power(tmp_path):
    data = encoded_folder(tmp_path)
    losses = []
    for power in (0.0, 1.0, 2.0):
        config = short_stage("instructnet", flow=plain_flow(level_power=power))
        torch.manual_seed(0)
        objective = config.objective(Model(ModelConfig.tiny()))
        batch = latent_feed(config, data).example()
        loss, metrics = objective.loss(batch, torch.Generator().manual_seed(0), 0.0)
        losses.append((loss.item(), metrics["velocity_error"], metrics["x0_error"]))
    # The same errors, of levels below 1.
    assert len({found[1:] for found in losses}) == 1
    assert losses[0][0] > losses[1][0] > losses[2][0] > 0

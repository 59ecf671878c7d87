"""Versions, promotion by evaluation, rollback: over a real folder and a real S3 API."""

import threading

import numpy as np
import pytest

from gamegen.evaluation import bootstrap
from gamegen.evaluation.evaluation_report import EvaluationReport, Figure, write_report
from gamegen.evaluation.metrics import STILL, TURNS
from gamegen.models.checkpoint import WEIGHTS_FILE, CheckpointError, load_checkpoint, read_card, save_random
from gamegen.models.model import ModelConfig
from gamegen.registry.registry import Registry, RegistryError
from gamegen.storage.encryption import EncryptedStore
from gamegen.storage.store_keys import StoreKeys


def figure(value: float, num_seeds: int) -> Figure:
    """A figure that all seeds agree on."""
    return Figure.of(bootstrap.mean_of(np.full(num_seeds, value)), f"{num_seeds} seeds from 0")


@pytest.fixture
def registry(store) -> Registry:
    return Registry(store)


@pytest.fixture
def add(registry, tmp_path):
    """Stores a checkpoint whose evaluation had these figures; returns its number."""

    def _add(turns: float, still: float = 0.5, seed: int = 0, num_seeds: int = 4, name: str = "mine") -> int:
        folder = tmp_path / f"checkpoint{seed}"
        save_random(folder, ModelConfig.tiny(), seed)
        sha256 = read_card(folder)["sha256"][WEIGHTS_FILE]
        figures = {TURNS: figure(turns, num_seeds), STILL: figure(still, num_seeds)}
        report = EvaluationReport(checkpoint="mine", weights_sha256=sha256, figures=figures)
        write_report(report, tmp_path / "report.json")
        return registry.add(name, folder, tmp_path / "report.json").number

    return _add


def test_a_version_comes_back_whole(registry, add, tmp_path):
    assert add(0.5) == 1
    assert add(0.6, seed=1) == 2
    assert registry.names() == ["mine"]
    assert [v.number for v in registry.versions("mine")] == [1, 2]
    version = registry.fetch("mine", 2, tmp_path / "out" / "fetched")
    fetched = load_checkpoint(tmp_path / "out" / "fetched")
    assert fetched.card["sha256"][WEIGHTS_FILE] == version.sha256
    assert version.sha256 == read_card(tmp_path / "checkpoint1")["sha256"][WEIGHTS_FILE]


def test_what_beats_the_current_one_is_promoted_and_can_be_rolled_back(registry, add):
    first, second = add(0.5), add(0.9, seed=1)
    registry.promote("mine", first)
    assert registry.version("mine").number == first
    verdict = registry.promote("mine", second)
    assert verdict.better == (f"{TURNS}: 0.500 [0.500, 0.500] -> 0.900 [0.900, 0.900]",)
    assert registry.version("mine").number == second
    assert registry.rollback("mine") == first
    assert registry.version("mine").number == first
    assert [(c.action, c.version) for c in registry.history("mine")] == [
        ("promote", first),
        ("promote", second),
        ("rollback", first),
    ]
    with pytest.raises(RegistryError, match="no earlier"):
        registry.rollback("mine")


def test_rollbacks_go_back_step_by_step_and_forward_again(registry, add):
    numbers = [add(0.1 + 0.2 * i, seed=i) for i in range(3)]
    for number in numbers:
        registry.promote("mine", number)
    assert registry.rollback("mine") == numbers[1]
    assert registry.promote("mine", numbers[2]).beats
    assert registry.rollback("mine") == numbers[1]
    assert registry.rollback("mine") == numbers[0]


def test_what_is_worse_anywhere_is_refused_with_the_figure(registry, add):
    registry.promote("mine", add(0.5, still=0.3))
    worse = add(0.9, still=0.6, seed=1)
    with pytest.raises(RegistryError, match=r"still: speed as share of walking: 0\.300 .* -> 0\.600"):
        registry.promote("mine", worse)
    assert registry.version("mine").number == 1


def test_reports_must_be_there_fit_and_be_comparable(registry, add, tmp_path):
    registry.promote("mine", add(0.5))
    with pytest.raises(RegistryError, match="evaluate both on equal ones"):
        registry.promote("mine", add(0.9, seed=1, num_seeds=8))
    bare = registry.add("mine", tmp_path / "checkpoint1").number
    with pytest.raises(RegistryError, match="no evaluation report"):
        registry.promote("mine", bare)
    with pytest.raises(RegistryError, match="other weights"):
        registry.add("mine", tmp_path / "checkpoint0", tmp_path / "report.json")


def test_unknown_names_and_numbers_say_what_there_is(registry, add):
    with pytest.raises(RegistryError, match="there are: none"):
        registry.versions("mine")
    add(0.5)
    with pytest.raises(RegistryError, match="there are: 1"):
        registry.version("mine", 7)
    with pytest.raises(RegistryError, match="promote one"):
        registry.version("mine")
    with pytest.raises(RegistryError, match="is not a valid model name"):
        registry.versions("../etc")


def test_a_damaged_checkpoint_is_neither_stored_nor_fetched(registry, add, tmp_path):
    add(0.5)
    weights = tmp_path / "checkpoint0" / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        registry.add("mine", tmp_path / "checkpoint0")
    registry.store.write("models/mine/000001/model.safetensors", b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        registry.fetch("mine", 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_addition_leaves_no_version(registry, add, monkeypatch):
    add(0.5)
    monkeypatch.setattr(registry, "_create", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        add(0.6, seed=1)
    monkeypatch.undo()
    assert [v.number for v in registry.versions("mine")] == [1]
    assert add(0.6, seed=1) == 3


def test_two_who_add_at_once_get_two_numbers(registry, add, tmp_path):
    add(0.5)
    numbers: list[int] = []
    folder = tmp_path / "checkpoint0"
    threads = [
        threading.Thread(target=lambda: numbers.append(registry.add("mine", folder).number)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [2, 3, 4, 5]


def test_two_who_promote_at_once_are_told(registry, add, monkeypatch):
    add(0.5), add(0.9, seed=1)
    stale = registry.history("mine")
    registry.promote("mine", 1)
    monkeypatch.setattr(registry, "history", lambda _: stale)
    with pytest.raises(RegistryError, match="changed at the same time"):
        registry.promote("mine", 2)


def test_sealed_models_are_unreadable_without_the_key(store, tmp_path):
    save_random(tmp_path / "checkpoint", ModelConfig.tiny())
    sealed = Registry(EncryptedStore(store, StoreKeys(bytes(32))))
    sealed.add("mine", tmp_path / "checkpoint")
    stored = store.read("models/mine/000001/model.safetensors")
    assert b"vae.encoder" not in stored
    sealed.fetch("mine", 1, tmp_path / "fetched")
    assert load_checkpoint(tmp_path / "fetched").config == ModelConfig.tiny()

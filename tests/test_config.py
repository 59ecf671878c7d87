from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from gamegen.config import CONFIG_KINDS, CONFIGS, build, config_file, config_names, load_yaml, to_dict


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    sizes: tuple[tuple[int, int], ...] = ((160, 96),)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate = {self.rate}: must not be negative")


@dataclass(frozen=True)
class Outer:
    steps: int
    kind: Literal["euler", "heun"] = "euler"
    inner: Inner = field(default_factory=Inner)
    weights: dict[str, float] = field(default_factory=dict)
    path: str | None = None
    verbose: bool = False
    limit: int | Literal["auto"] | Inner | None = None
    share: Annotated[float, Field(ge=0, le=1)] = 0.0


def test_a_file_becomes_nested_dataclasses(tmp_path: Path) -> None:
    file = tmp_path / "stage.yaml"
    file.write_text("steps: 3\ninner: {rate: 1, sizes: [[32, 16], [64, 32]]}\nweights: {a: 2}\npath: null\n")
    config = load_yaml(Outer, file)
    assert config == Outer(3, inner=Inner(1.0, ((32, 16), (64, 32))), weights={"a": 2.0})
    assert isinstance(config.inner.rate, float)


def test_a_config_survives_the_round_trip() -> None:
    config = Outer(3, kind="heun", path="x")
    assert build(Outer, to_dict(config), "test") == config


@pytest.mark.parametrize("limit", [3, "auto", Inner(0.25), None])
def test_every_arm_of_a_union_is_tried(limit: object) -> None:
    config = Outer(1, limit=limit)
    assert build(Outer, to_dict(config), "test") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 3\nstep: 4", "unknown key 'step'; known keys: inner, kind"),
        ("kind: euler", "missing key 'steps'"),
        ("steps: many", "steps = 'many': expected int"),
        ("steps: true", "steps = True: expected int"),
        ("steps: 1\nkind: rk4", "kind = 'rk4': expected one of"),
        ("steps: 1\ninner: {rate: fast}", "inner: rate = 'fast': expected float"),
        ("steps: 1\ninner: {sizes: [[1, 2, 3]]}", "expected 2 values"),
        ("steps: 1\ninner: 7", "expected a mapping for Inner"),
        ("steps: 1\nweights: {a: b}", r"weights\.a = 'b': expected float"),
        ("steps: [", "not valid YAML"),
        ("- 1", "expected a mapping for Outer"),
        ("steps: 1\ninner: {rate: -1}", "rate = -1.0: must not be negative"),
        ("steps: 1\ninner: {sizes: [[1]]}", r"sizes\[0\] = \[1\]: expected 2 values"),
        ("steps: 1\ninner: {sizes: [3]}", r"inner: sizes\[0\] = 3: expected a list"),
        ("steps: 1\ninner: {sizes: [[1, x]]}", r"inner: sizes\[0\]\[1\] = 'x': expected int"),
        ("steps: 1\nverbose: 1", "verbose = 1: expected bool"),
        ("steps: 1\npath: 2", "path = 2: expected str"),
        (
            "steps: 1\nlimit: 1.5",
            r"limit = 1.5: expected int or expected one of 'auto' or expected a mapping for Inner",
        ),
        ("steps: 1\nlimit: {rat: 1}", "limit: unknown key 'rat'; known keys: rate, sizes"),
        ("steps: 1\nshare: 1.5", "share = 1.5: must be at most 1"),
        ("steps: 1\nstep: 2\nverbose: 3", "unknown key 'step'"),
        ('steps: 1\npath: "\\ud800"', "not valid Unicode"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "stage.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_yaml(Outer, file)


@pytest.mark.parametrize("kind", CONFIG_KINDS)
def test_shipped_settings_go_by_their_names(kind: str) -> None:
    assert config_names(kind)
    assert [config_file(kind, name) for name in config_names(kind)] == sorted((CONFIGS / kind).iterdir())


def test_settings_of_ones_own_are_paths_and_others_are_named_errors(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for own in ("vae.yaml", "vae.yml", "own/vae"):
        (tmp_path / own).parent.mkdir(exist_ok=True)
        (tmp_path / own).write_text("{}")
        assert config_file("stages", own) == Path(own)
    # A folder of that name is no reason not to find the shipped settings.
    (tmp_path / "crowd").mkdir()
    assert config_file("serve", "crowd") == CONFIGS / "serve" / "crowd.yaml"
    for wrong in ("gan", "configs/serve/noop.yaml", "../vae"):
        with pytest.raises(
            ValueError, match=r"no server settings .*: use one of cluster, crowd, local, noop, or a"
        ):
            config_file("serve", wrong)

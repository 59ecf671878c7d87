from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from gamegen.config import build, load_yaml, to_dict


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


def test_a_file_becomes_nested_dataclasses(tmp_path: Path) -> None:
    file = tmp_path / "stage.yaml"
    file.write_text("steps: 3\ninner: {rate: 1, sizes: [[32, 16], [64, 32]]}\nweights: {a: 2}\npath: null\n")
    config = load_yaml(Outer, file)
    assert config == Outer(3, inner=Inner(1.0, ((32, 16), (64, 32))), weights={"a": 2.0})
    assert isinstance(config.inner.rate, float)


def test_a_config_survives_the_round_trip() -> None:
    config = Outer(3, kind="heun", path="x")
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
    ],
)
def test_a_wrong_value_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "stage.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_yaml(Outer, file)

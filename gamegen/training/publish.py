"""Turns a trained run into shippable weights: bfloat16, with a card of every stage that led there.

python -m gamegen.training.publish runs/turbo gamegen/weights/nano
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from gamegen.engine.variants import Variant
from gamegen.models.checkpoint import CheckpointError, load_checkpoint, read_card, read_json, save_checkpoint
from gamegen.models.inverse_dynamics import InverseDynamics, load_inverse_dynamics
from gamegen.models.model import Model
from gamegen.process.command import run_command

EVALUATION_FILE = "evaluation.json"
"""Figures that an evaluation left in the run's folder: they go into the card."""
_STAGE_FACTS = ("stage", "steps", "wall_time_s", "machine", "metrics")


def publish(run: Path | str, target: Path, data: dict[str, Any], licence: str) -> None:
    """Writes a run, or a variant of one, to `target` in bfloat16; raises CheckpointError for a damaged run."""
    variant = Variant.parse(str(run))
    run = Path(variant.model)
    model = _load(variant)
    card = {
        "name": target.name,
        "licence": licence,
        "data": data,
        "stages": stage_history(run),
        "weights": sum(p.numel() for p in model.parameters()),
        "dtype": "bfloat16",
    }
    if (run / EVALUATION_FILE).is_file():
        card["evaluation"] = read_json(run / EVALUATION_FILE)
    save_checkpoint(target, model.config, model.state_dict(), card, torch.bfloat16)


def _load(variant: Variant) -> Model | InverseDynamics:
    if read_card(variant.model).get("stage") == "idm":
        return load_inverse_dynamics(variant.model, "cpu")
    model = load_checkpoint(variant.model, "cpu").model
    model.config = variant.config()
    return model


def stage_history(run: Path | str) -> list[dict[str, Any]]:
    """What trained the run, first stage first; paths are left out, they mean nothing elsewhere.

    Shipped weights bring the history in their card. A checkpoint that is not there any more has none.
    """
    try:
        card = read_card(run)
    except CheckpointError:
        return []
    if "stages" in card:
        return card["stages"]
    earlier = card.get("initialised_from")
    history = stage_history(earlier) if earlier else []
    return [*history, {name: card[name] for name in _STAGE_FACTS if name in card}]


def main(
    run: Annotated[
        str, typer.Argument(help="checkpoint folder of a finished stage, with changes: RUN:num_steps=2")
    ],
    target: Annotated[Path, typer.Argument(help="folder to write, its name is the model's name")],
    footage: Annotated[str, typer.Option(help="what it was trained on, in words")],
    hours: Annotated[float, typer.Option(help="hours of training footage")],
    licence: Annotated[str, typer.Option(help="licence of the weights")] = "CC BY-SA 4.0",
) -> None:
    """Writes shippable weights.

    Example: python -m gamegen.training.publish runs/turbo weights/mine --footage "my game" --hours 2
    """
    publish(run, target, {"footage": footage, "hours": hours}, licence)


if __name__ == "__main__":
    run_command(main)

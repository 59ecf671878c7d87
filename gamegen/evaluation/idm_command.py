"""The command `gamegen idm`: evaluates inverse dynamics, and labels footage without a key log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

if TYPE_CHECKING:
    from gamegen.evaluation.action_scores import ActionScores

idm = typer.Typer(no_args_is_help=True, help="Reads keys and camera turns off frames (inverse dynamics).")

Checkpoint = Annotated[str, typer.Argument(help="a checkpoint folder or a shipped model")]


@idm.command()
def evaluate(
    checkpoint: Checkpoint = "idm",
    data: Annotated[Path, typer.Option(help="curated shards")] = Path("curated"),
) -> None:
    """Compares what is read off held-out worlds with what was played there.

    A checkpoint folder also gets the figures as evaluation.json, which publishing puts into its card.
    Example: gamegen idm evaluate runs/idm --data curated
    """
    from gamegen.config import to_dict
    from gamegen.curation.shards import read_rows
    from gamegen.evaluation.action_scores import score_clips
    from gamegen.models.inverse_dynamics import load_inverse_dynamics
    from gamegen.training.publish import EVALUATION_FILE

    model = load_inverse_dynamics(checkpoint)
    figures: dict[str, dict] = {}
    for split in ("validation", "test"):
        scores = score_clips(model, read_rows(data, split))
        Console().print(_table(split, scores))
        figures[split] = {game: to_dict(score) for game, score in scores.items()}
    if Path(checkpoint).is_dir():
        (Path(checkpoint) / EVALUATION_FILE).write_text(json.dumps(figures, indent=2) + "\n")


@idm.command()
def label(
    source: Annotated[Path, typer.Argument(help="a video, a folder of videos, or a clip table (.parquet)")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="clip table to write; by default beside the videos, or the table"
        ),
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="a checkpoint folder or a shipped model")] = "idm",
    game: Annotated[str, typer.Option(help="name of the game")] = "own",
    place: Annotated[str, typer.Option(help="what the world looks like, for prompts")] = "game world",
    view: Annotated[str, typer.Option(help="first or third")] = "first",
    licence: Annotated[str, typer.Option(help="the footage's licence")] = "unknown",
) -> None:
    """Writes a clip table of videos without key logs, or fills in the clips of a table that have no keys.

    It writes as it goes: run again, it goes on where it was. What cannot be read is listed in rejected.parquet.

    Example: gamegen idm label footage/ -o footage/keys.parquet --place "snowy forest"
    """
    from gamegen.curation.labelling import fill_in, label_videos
    from gamegen.curation.labels import Scenery
    from gamegen.models.inverse_dynamics import load_inverse_dynamics

    model = load_inverse_dynamics(checkpoint)
    if source.suffix == ".parquet":
        table = output or source
        report = fill_in(source, table, model, track)
    else:
        table = output or (source if source.is_dir() else source.parent) / "keys.parquet"
        scenery = Scenery(game, place, view, licence)
        report = label_videos(source, table, scenery, model, track)
    print(f"{table}: {len(report.clips)} clips, {sum(clip.num_frames for clip in report.clips)} frames")
    if report.rejected:
        first = report.rejected[0]
        print(f"{report.rejected_file}: {len(report.rejected)} put aside; {first.path}: {first.detail}")


def _table(split: str, scores: dict[str, ActionScores]) -> Table:
    table = Table("", *scores, title=f"{split} worlds; of keys precision, recall, F1 (steps held)")
    keys = next(iter(scores.values())).keys
    for name in keys:
        rows = [score.keys[name] for score in scores.values()]
        table.add_row(
            name,
            *(f"{k.precision:.3f} {k.recall:.3f} {k.f1:.3f} ({k.held})" for k in rows),
        )
    table.add_section()
    table.add_row("all keys: micro-F1", *(f"{score.micro.f1:.3f}" for score in scores.values()))
    for name in ("camera_sign", "yaw_sign", "pitch_sign", "still_camera"):
        table.add_row(name.replace("_", " "), *(f"{getattr(score, name):.3f}" for score in scores.values()))
    table.add_row(
        "error of yaw, pitch (degrees a frame)",
        *(f"{score.yaw_error_deg:.2f} {score.pitch_error_deg:.2f}" for score in scores.values()),
    )
    table.add_row("steps", *(str(score.steps) for score in scores.values()))
    return table

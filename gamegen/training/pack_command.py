"""`gamegen pack`: what a machine with little installed and little time trains from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pack(
    data: Annotated[Path, typer.Argument(help="encoded shards")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder to write; must not exist")],
    curated: Annotated[
        Path | None, typer.Option(help="curated shards of the same clips, for the stages that read some")
    ] = None,
    plan: Annotated[str, typer.Option(help="a name in gamegen/configs/bursts, or a YAML file")] = "gpu",
) -> None:
    """Packs shards, code and a checkpoint for a machine with PyTorch, OpenCV, NumPy and safetensors.

    Example: gamegen pack data/encoded --curated data/curated --output burst
    """
    from gamegen.training.burst_plan import plan_file
    from gamegen.training.pack import write_pack

    files = write_pack(data=data, curated=curated, plan=plan_file(plan), output=output)
    size = sum(file.stat().st_size for file in files)
    print(f"{output}: {len(files)} files, {size / 1e6:.1f} MB")

"""One folder of small files that a machine with PyTorch, OpenCV, NumPy and safetensors trains from.

gamegen/, cachetools/, ...             the code, and the pure Python packages that training imports
licences/                              their licences
encoded/, curated/                     packed shards (`gamegen/curation/packed.py`)
init/                                  the checkpoint that the first stage builds on
plan.yaml                              a `BurstPlan`
manifest.json                          the SHA-256 of every other file
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gamegen.curation.packed import MAX_PIECE_BYTES, PieceWriter
from gamegen.curation.row_groups import column_by_group, read_rows_of, shard_files
from gamegen.files import file_sha256
from gamegen.models.checkpoint import load_checkpoint, save_checkpoint
from gamegen.training.burst_plan import (
    CURATED_FOLDER,
    ENCODED_FOLDER,
    INIT_FOLDER,
    MANIFEST_FILE,
    PLAN_FILE,
    BurstPlan,
    load_plan,
)
from gamegen.training.stages.foundation import STATISTICS_FILE

CARRIED = {"cachetools": "cachetools", "einops": "einops", "rich": "rich", "yaml": "PyYAML"}
"""Pure Python packages that training imports, with the names of their distributions."""
SPLITS = ("train", "validation")


def write_pack(*, data: Path, curated: Path | None, plan: Path, output: Path) -> list[Path]:
    """Writes a pack and returns its files.

    `data` are encoded and `curated` curated shards. Raises ValueError if `output` exists, a stage of the plan finds no
    shards, or a file would be larger than `MAX_PIECE_BYTES`; FileNotFoundError if there are no training shards.
    """
    if output.exists():
        raise ValueError(f"{output} exists: remove it, or write to another folder")
    wanted = load_plan(plan)
    if curated is None and wanted.reads("curated"):
        raise ValueError(f"{plan} has stages that read curated shards: pass their folder with --curated")
    output.mkdir(parents=True)
    pack_shards(data, output / ENCODED_FOLDER)
    if (data / STATISTICS_FILE).is_file():
        shutil.copyfile(data / STATISTICS_FILE, output / ENCODED_FOLDER / STATISTICS_FILE)
    if curated is not None and wanted.reads("curated"):
        pack_shards(curated, output / CURATED_FOLDER)
    _pack_init(wanted, output / INIT_FOLDER)
    _copy_code(output)
    _copy_licences(output)
    shutil.copyfile(plan, output / PLAN_FILE)
    return _write_manifest(output)


def pack_shards(data: Path, output: Path, max_bytes: int = MAX_PIECE_BYTES) -> None:
    """Packs the training and validation shards of a folder, row group by row group.

    Raises FileNotFoundError if there are no training shards, ValueError for a row group that does not fit a piece.
    """
    if not shard_files(data, "train"):
        raise FileNotFoundError(f"no train shards under {data}: run the curate and encode jobs first")
    for split in SPLITS:
        for file in shard_files(data, split):
            stem = output / file.relative_to(data).with_suffix("")
            with PieceWriter(stem, max_bytes) as writer:
                for group, ids in enumerate(column_by_group(file, "clip_id")):
                    writer.write(read_rows_of(file, group, range(len(ids))))


def _pack_init(plan: BurstPlan, folder: Path) -> None:
    """The parts of the plan's checkpoint that its stages go on with."""
    checkpoint = load_checkpoint(plan.init, "cpu")
    dropped = {part: None for part in ("foundation", "instructnet", "motion") if part not in plan.keep}
    config = replace(checkpoint.config, **dropped)  # type: ignore[arg-type]
    weights = {
        name: tensor
        for name, tensor in checkpoint.model.state_dict().items()
        if name.partition(".")[0] not in dropped
    }
    save_checkpoint(folder, config, weights, checkpoint.card)


def _copy_code(output: Path) -> None:
    package = Path(__file__).parents[1]
    for file in _files(package, (".py", ".css", ".yaml")):
        _copy(file, output / "gamegen" / file.relative_to(package))
    for name in CARRIED:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.submodule_search_locations
        folder = Path(spec.submodule_search_locations[0])
        for file in _files(folder, (".py",)):
            _copy(file, output / name / file.relative_to(folder))


def _copy_licences(output: Path) -> None:
    for name, distribution in ({"gamegen": "gamegen"} | CARRIED).items():
        for entry in importlib.metadata.files(distribution) or ():
            if "licen" in entry.name.lower():
                _copy(Path(str(entry.locate())), output / "licences" / name / entry.name)


def _files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.suffix in suffixes and file.is_file())


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)


def _write_manifest(output: Path) -> list[Path]:
    files = sorted(file for file in output.rglob("*") if file.is_file())
    for file in files:
        if (size := file.stat().st_size) > MAX_PIECE_BYTES:
            raise ValueError(
                f"{file} has {size:,} bytes, more than the {MAX_PIECE_BYTES:,} of a piece: begin with a smaller "
                "checkpoint"
            )
    sums = {str(file.relative_to(output)): file_sha256(file) for file in files}
    manifest = output / MANIFEST_FILE
    manifest.write_text(json.dumps({"sha256": sums}, indent=2) + "\n")
    return [*files, manifest]

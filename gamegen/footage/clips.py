"""The clip table: one Parquet row for each recorded MP4, with its keys, its truth and its words.

Frame alignment: `keys[i]`, `yaw_deg[i]` and `pitch_deg[i]` are the operation whose effect first shows in
frame `i + 1`; the truth columns (`biome`, `weather`, ...) describe frame `i` itself. Footage without a key log
has empty lists there until `gamegen idm label` fills them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gamegen.files import visible_files, write_atomically

CAPTION_FIELDS = ("summary", "game_meta", "character", "frame_description", "atmosphere")
"""The five fields of a generation caption (GameGen-X, OGameData-GEN)."""
INSTRUCTION_FIELDS = ("environmental_basic", "transition", "light", "act", "misc")
"""The five fields of an instruction (GameGen-X, OGameData-INS)."""

REJECTED_FILE = "rejected.parquet"
"""File beside clip tables and shards, with the clips that were put aside and why."""
_LABELLED_BY = "gamegen.labelled_by"
_STRINGS = pa.list_(pa.string())
_FLOATS = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("size_bytes", pa.int64()),
        ("game", pa.string()),
        ("licence", pa.string()),
        ("world_seed", pa.int64()),
        ("fps", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("num_frames", pa.int32()),
        ("perspective", pa.string()),
        ("keys", pa.list_(_STRINGS)),
        ("yaw_deg", _FLOATS),
        ("pitch_deg", _FLOATS),
        ("biome", _STRINGS),
        ("weather", _STRINGS),
        ("time_of_day", _STRINGS),
        ("view", _STRINGS),
        ("position", pa.list_(_FLOATS)),
        ("heading_deg", _FLOATS),
        ("tilt_deg", _FLOATS),
        ("prompts", _STRINGS),
        ("caption", pa.struct([(name, pa.string()) for name in CAPTION_FIELDS])),
        (
            "instructions",
            pa.list_(
                pa.struct(
                    [("frame", pa.int32()), ("kind", pa.string()), ("text", pa.string())]
                    + [(name, pa.string()) for name in INSTRUCTION_FIELDS]
                )
            ),
        ),
        ("vertical_fov_deg", pa.float32()),
        ("inverse_depth", pa.large_binary()),
    ]
)


@dataclass(frozen=True)
class Instruction:
    """A change of the world at `frame` (its effect shows from `frame + 1` on) and the words that ask for it.

    `kind` is one of weather, time, perspective, biome; `fields` holds the five `INSTRUCTION_FIELDS`.
    """

    frame: int
    kind: str
    text: str
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Clip:
    """One recorded clip; every per-frame list has `num_frames` entries (keys and turns none before they are known).

    `path` is relative to the table's folder. `prompts` are short ways to ask for the clip's first scene
    ("first-person, snowy forest at night"); `caption` holds the five `CAPTION_FIELDS`.
    `perspective` is first or third; `view` says the same per frame. Angles are degrees.
    `inverse_depth` is uint8 `(num_frames, height // 4, width // 4)`: `DEPTH_SCALE` divided by the distance, at most
    255, 0 for the sky; what is held in the hand is left out. `vertical_fov_deg` is the camera's field of view from
    top to bottom. Both are None where the game does not tell.
    """

    clip_id: str
    path: str
    sha256: str
    size_bytes: int
    game: str
    licence: str
    world_seed: int
    fps: int
    width: int
    height: int
    num_frames: int
    perspective: str
    keys: list[list[str]]
    yaw_deg: list[float]
    pitch_deg: list[float]
    biome: list[str]
    weather: list[str]
    time_of_day: list[str]
    view: list[str]
    position: list[list[float]]
    heading_deg: list[float]
    tilt_deg: list[float]
    prompts: list[str]
    caption: dict[str, str]
    instructions: list[Instruction]
    vertical_fov_deg: float | None = None
    inverse_depth: bytes | None = None

    def to_row(self) -> dict:
        """The clip as one row of `SCHEMA`."""
        row = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        row["instructions"] = [
            {"frame": i.frame, "kind": i.kind, "text": i.text, **i.fields} for i in self.instructions
        ]
        return row

    @classmethod
    def from_row(cls, row: dict) -> Clip:
        """The inverse of `to_row`."""
        instructions = [
            Instruction(i["frame"], i["kind"], i["text"], {n: i[n] or "" for n in INSTRUCTION_FIELDS})
            for i in row["instructions"]
        ]
        return cls(**{**row, "instructions": instructions})


def write_table(clips: list[Clip], path: Path, labelled_by: str | None = None) -> None:
    """Writes `clips` to one Parquet file, replacing it in one step; `labelled_by` is kept in it for `labels_of`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as partial:
        table = pa.Table.from_pylist([clip.to_row() for clip in clips], schema=SCHEMA)
        if labelled_by is not None:
            table = table.replace_schema_metadata({_LABELLED_BY: labelled_by})
        pq.write_table(table, partial, compression="zstd")


def labels_of(table: Path) -> str | None:
    """The `labelled_by` that a clip table was written with; None if there was none, or no table."""
    found = (pq.read_schema(table).metadata or {}).get(_LABELLED_BY.encode()) if table.exists() else None
    return None if found is None else found.decode()


def table_files(folder: Path) -> list[Path]:
    """Every clip table under a folder, in order of name."""
    return [file for file in visible_files(folder, "*.parquet") if file.name != REJECTED_FILE]


def read_table(path: Path) -> list[Clip]:
    """The clips of one Parquet file or of every `*.parquet` under a folder, in order of `clip_id`.

    Raises FileNotFoundError if there is none.
    """
    files = table_files(path) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise FileNotFoundError(f"no clip table under {path}: record footage first (gamegen record --help)")
    clips = [Clip.from_row(row) for file in files for row in pq.read_table(file, schema=SCHEMA).to_pylist()]
    return sorted(clips, key=lambda clip: clip.clip_id)

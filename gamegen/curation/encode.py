"""From curated shards to encoded ones: what to do (`plan`), and one shard's worth of doing it (`Encoder`).

An encoded shard has the path of its curated shard, so finished work is recognised by what lies there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gamegen.curation import encoded, shards
from gamegen.files import write_atomically
from gamegen.media.prompt_pictures import KINDS
from gamegen.models.checkpoint import load_checkpoint
from gamegen.models.digests import vae_sha256
from gamegen.models.text import load_text_encoder

STATISTICS_FILE = "statistics.json"


@dataclass(frozen=True)
class EncodedPart:
    """One encoded shard: how many clips and how many seconds of video it holds."""

    num_clips: int
    seconds: float


class Encoder:
    """A VAE, its motion network if there is one, and a text encoder, loaded once and then fed shard after shard.

    `vae` names a checkpoint folder or a shipped model; its config names the text encoder.
    Raises CheckpointError (a ValueError) if there is no sound checkpoint.
    """

    def __init__(self, vae: str, device: str | None = None, video_prompts: Sequence[str] = ()) -> None:
        self.video_prompts = known_kinds(video_prompts)
        self.model = load_checkpoint(vae, device).model
        self.text_encoder = load_text_encoder(self.model.config.text_encoder)
        self.vae_sha256 = vae_sha256(self.model)

    def encode_part(self, part: Path, output: Path) -> EncodedPart:
        """Encodes the clips of one curated shard into the shard `output`, replacing it in one step."""
        rows, seconds = [], 0.0
        for batch in pq.ParquetFile(part).iter_batches(batch_size=1):
            for row in batch.to_pylist():
                rows.append(
                    encoded.encode_row(
                        row, self.model, self.text_encoder, self.vae_sha256, self.video_prompts
                    )
                )
                seconds += row["num_frames"] / row["fps"]
        shards.write_table(pa.Table.from_pylist(rows, schema=encoded.SCHEMA), output)
        return EncodedPart(len(rows), seconds)


def known_kinds(video_prompts: Sequence[str]) -> tuple[str, ...]:
    """The kinds of video prompts asked for, in order; raises ValueError for one that does not exist."""
    for kind in video_prompts:
        if kind not in KINDS:
            raise ValueError(f"no video prompt {kind!r}: use some of {', '.join(KINDS)}")
    return tuple(video_prompts)


def plan(
    curated: Path, output: Path, sha256: str, video_prompts: Sequence[str] = ()
) -> list[tuple[Path, Path]]:
    """(curated shard, encoded shard) for every shard whose clips, or video prompts, this VAE has not encoded yet.

    Shards of earlier versions, without the clips' frames, count as not encoded. Raises FileNotFoundError if
    `curated` holds no shard.
    """
    parts = shards.part_files(curated)
    if not parts:
        raise FileNotFoundError(f"no curated shards under {curated}: run the curate job first")
    pairs = [(part, output / part.relative_to(curated)) for part in parts]
    return [(part, target) for part, target in pairs if not _is_encoded(part, target, sha256, video_prompts)]


def _is_encoded(part: Path, target: Path, sha256: str, video_prompts: Sequence[str]) -> bool:
    if not target.exists():
        return False
    file = pq.ParquetFile(target)
    if "video" not in file.schema_arrow.names:
        return False
    if video_prompts:
        if "video_prompts" not in file.schema_arrow.names:
            return False
        prompts = file.read(["video_prompts.list.element.kind"])["video_prompts"].to_pylist()
        if any([prompt["kind"] for prompt in row] != list(video_prompts) for row in prompts):
            return False
    found = file.read(["clip_id", "vae_sha256"])
    wanted = pq.ParquetFile(part).read(["clip_id"])
    return set(found["vae_sha256"].to_pylist()) == {sha256} and found["clip_id"].equals(wanted["clip_id"])


def write_statistics(output: Path) -> dict[str, list[float]]:
    """Mean and standard deviation of every latent channel over the train split, to `statistics.json`.

    Raises ValueError if the train split is empty or was encoded by more than one VAE.
    """
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    vaes: set[str] = set()
    for row in shards.read_rows(output, ["latents", "latent_shape", "vae_sha256"], splits=["train"]):
        latents = (
            np.frombuffer(row["latents"], np.float16).reshape(-1, *row["latent_shape"]).astype(np.float64)
        )
        count += latents.size // latents.shape[1]
        total = total + latents.sum((0, 2, 3))
        squares = squares + np.square(latents).sum((0, 2, 3))
        vaes.add(row["vae_sha256"])
    if len(vaes) != 1:
        raise ValueError(
            f"the train split under {output} was encoded by {len(vaes)} VAEs, it needs exactly one: "
            "curate some training clips, or encode into an empty folder"
        )
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-8))
    statistics = {"mean": mean.tolist(), "std": std.tolist()}
    with write_atomically(output / STATISTICS_FILE) as partial:
        partial.write_text(json.dumps({**statistics, "vae_sha256": vaes.pop()}, indent=2) + "\n")
    return statistics

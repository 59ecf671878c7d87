"""Settings that every training stage has; a stage's own are in its file of `gamegen/training/stages/`."""

from __future__ import annotations

from dataclasses import dataclass, field

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.media.size import Size
from gamegen.training.optimisers import OptimiserConfig
from gamegen.training.parallel import ParallelConfig


@dataclass(frozen=True)
class TrainingBucket:
    """Windows of `num_frames` frames (1: single latents, as images) from clips of `size`, in some of the steps.

    `probability` is relative to that of the stage's other buckets.
    """

    size: str = "160x96"
    num_frames: int = 32
    probability: float = 1.0

    def __post_init__(self) -> None:
        Size.parse(self.size)
        if self.num_frames < 1:
            raise ValueError(f"bucket {self.name}: num_frames must be at least 1")
        if self.probability <= 0:
            raise ValueError(f"bucket {self.name}: probability {self.probability} must be above 0")

    @property
    def name(self) -> str:
        """WIDTHxHEIGHTxFRAMES."""
        return f"{self.size}x{self.num_frames}"

    @property
    def num_latents(self) -> int:
        """Latent frames of a window."""
        return -(-self.num_frames // FRAMES_PER_CHUNK)

    @property
    def num_tokens(self) -> int:
        """Tokens of a window: patches of 16x16 pixels of each latent frame."""
        width, height = Size.parse(self.size)
        return self.num_latents * (width // 16) * (height // 16)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Settings common to all stages.

    A step takes `batch_size` windows of the first bucket, or as many of another as hold about the same number of
    tokens, in `micro_batches` equal parts that workers share or take one after the other: the number of workers
    changes nothing about what is learned. A reader mixes the windows of `pool_clips` clips at a time and draws each
    `repeats` times, which pays where preparing a clip is dear.
    `keep_states` states to resume from are kept; of older ones the averaged weights go to the archive.

    At each save the averaged weights are tried on `validation_batches` batches that training never sees; 0 is none.
    Parts that a stage creates have the sizes of `model`: a name in `gamegen/configs/models/`, or a YAML file.
    """

    stage: str
    model: str = "nano"
    steps: int = 2000
    batch_size: int = 8
    micro_batches: int = 1
    buckets: tuple[TrainingBucket, ...] = (TrainingBucket(),)
    pool_clips: int = 32
    repeats: int = 1
    keep_states: int = 5
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    ema_decay: float = 0.998
    seed: int = 0
    log_every: int = 20
    save_every: int = 200
    validation_batches: int = 4
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)

    def __post_init__(self) -> None:
        if not self.buckets:
            raise ValueError("buckets: a stage needs at least one")
        if self.micro_batches < 1 or self.batch_size % self.micro_batches:
            raise ValueError(
                f"batch_size = {self.batch_size}: must be a multiple of micro_batches = {self.micro_batches}"
            )

    def micro_batch_size(self, bucket: TrainingBucket) -> int:
        """Windows of `bucket` in a micro-batch: about as many tokens as one of the first bucket has."""
        tokens = self.batch_size // self.micro_batches * self.buckets[0].num_tokens
        return max(1, round(tokens / bucket.num_tokens))

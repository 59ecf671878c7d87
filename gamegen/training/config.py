"""What one training stage does; loaded from `configs/stages/*.yaml`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from gamegen.controls import FRAMES_PER_CHUNK
from gamegen.models.inverse_dynamics import InverseDynamicsConfig
from gamegen.models.sparse_attention import SparseAttentionConfig
from gamegen.training.discriminator import DiscriminatorConfig
from gamegen.training.parallel import ParallelConfig

StageName = Literal["vae", "foundation", "instructnet", "turbo", "sparse", "decoder", "idm"]


@dataclass(frozen=True)
class OptimiserConfig:
    """Muon and AdamW with linear warm-up, a constant rate, then a cosine over the last `decay_fraction` of the run.

    `betas` are AdamW's; which weights each optimiser takes is in `gamegen/training/loop.py`.
    """

    learning_rate: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    warmup_steps: int = 100
    decay_fraction: float = 0.4
    final_rate: float = 0.03
    clip_norm: float = 1.0


@dataclass(frozen=True)
class VAELossConfig:
    """Reconstruction is L1 plus `gradient_weight` times L1 of image gradients; KL keeps latents near unit size.

    `perceptual_weight` times the distance of EfficientNet features of `perceptual_frames` frames a step is added and,
    from `adversarial_start` of the run on, `adversarial_weight` times a discriminator's score. The streaming decoder
    learns the same and, `distillation_weight` times, what the whole decoder makes of the latents.
    """

    gradient_weight: float = 0.25
    kl_weight: float = 3e-4
    perceptual_weight: float = 0.05
    perceptual_frames: int = 6
    adversarial_weight: float = 0.02
    adversarial_start: float = 0.6
    distillation_weight: float = 0.5
    crop: int = 96
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)


@dataclass(frozen=True)
class DecoderLossConfig:
    """Decoders learn on latents of a frozen encoder with noise up to `latent_noise` (in standard deviations of a
    latent): what they decode in play is never exact.

    To L1 and its gradients come, each times its weight, the L1 of changes from frame to frame (`motion_weight`), the
    distance of local texture (`texture_weight`), the discriminator's score (`adversarial_weight`) and the distance
    of its features (`feature_weight`). In `held_windows` of the windows a latent is repeated to the end, give or take
    `held_noise`, and the truth is its last frame: a world that stands still must not play a latent's motion again.
    """

    gradient_weight: float = 0.25
    motion_weight: float = 0.5
    texture_weight: float = 2.0
    latent_noise: float = 0.2
    held_windows: float = 0.4
    held_noise: float = 0.05
    adversarial_weight: float = 0.02
    feature_weight: float = 0.1
    crop: int = 96
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)


@dataclass(frozen=True)
class InverseDynamicsLossConfig:
    """Inverse dynamics learns on frames as unsteady as drawn ones too, or it would only know recorded ones.

    `redrawn_clips` of the clips pass through the autoencoder of the checkpoint `redrawn_by` with noise of up to
    `latent_noise` (standard deviations) on their latents. `disturbed_clips` of them are changed by up to this much:
    `gamma` (natural logarithm of the exponent), `blur_px`, `noise` a pixel and `shimmer` in patches, the last two as
    shares of the picture's contrast. All motion maps get noise of up to `map_noise`.
    `rare_windows` of the windows lie around a press of a key drawn evenly, because most of what is recorded is walking.
    """

    redrawn_by: str = "nano"
    redrawn_clips: float = 0.1
    latent_noise: float = 0.2
    disturbed_clips: float = 0.15
    gamma: float = 0.4
    blur_px: float = 1.2
    noise: float = 0.08
    shimmer: float = 0.08
    map_noise: float = 0.05
    rare_windows: float = 0.4


@dataclass(frozen=True)
class ControlMix:
    """What steers the windows that InstructNet learns from, in relative shares: nothing, keys, instructions in words,
    video prompts, or several at once. A share with video falls to windows that have one, else to its words alone.

    The default suits footage with keys; GameGen-X (section 3.3) gives 20 % no control and, of the rest, 30 % text and
    keys, 30 % text, 30 % text and video prompt and 10 % all of them.
    """

    nothing: float = 0.22
    keys: float = 0.22
    words: float = 0.06
    words_and_keys: float = 0.5
    words_and_video: float = 0.0
    everything: float = 0.0


@dataclass(frozen=True)
class FlowLossConfig:
    """The rectified-flow objective with diffusion forcing.

    Levels are logit-normal with mean `level_shift`, or `start_level_shift` where no latent comes before: light and
    layout are decided at the highest levels there, but with a mean of 2 the low ones are so rare that first pictures
    stay noisy. The latent
    before each one is given with noise uniform up to `previous_noise`; it is masked with probability
    `text_to_video` (then the window begins a world), the text is dropped with probability `text_drop`. The loss is
    weighted by how much a latent changed.
    With InstructNet, `controls` says which windows are steered by what. From `own_start` of the run on,
    `own_predictions` of the windows have their previous latents replaced by the model's own, against drift.
    A bucket of one frame teaches a world's first picture, which is drawn from the words alone.
    `still_windows` of the windows are drawn around a moment without keys, and latents that equal the one before
    them count `still_weight` times: footage is mostly movement, and a world that cannot stand still shimmers.
    `train_foundation` false freezes the foundation while InstructNet learns.
    """

    level_shift: float = 0.7
    start_level_shift: float = 1.2
    previous_noise: float = 0.35
    text_to_video: float = 0.25
    text_drop: float = 0.25
    controls: ControlMix = field(default_factory=ControlMix)
    own_predictions: float = 0.25
    own_start: float = 0.5
    transition_windows: float = 0.25
    still_windows: float = 0.15
    still_weight: float = 4.0
    train_foundation: bool = False


@dataclass(frozen=True)
class TurboConfig:
    """Discrete consistency distillation: `num_levels` on the schedule of `shift`, teacher guidance, target EMA.

    The run begins with `first_levels` and doubles them at even intervals: what the teacher knows at low noise has to
    travel to the highest level by level, which takes long where they are many.
    `huber_width` is where the pseudo-Huber metric turns linear, in standard deviations of a latent.
    `num_steps` is what the distilled model is then sampled with.
    """

    num_levels: int = 24
    first_levels: int = 3
    shift: float = 3.0
    guidance_scale: float = 2.0
    huber_width: float = 0.1
    target_ema: float = 0.95
    num_steps: int = 2
    first_steps: int = 6

    def __post_init__(self) -> None:
        if not 1 <= self.first_levels <= self.num_levels:
            raise ValueError(
                f"first_levels = {self.first_levels}: must be between 1 and num_levels = {self.num_levels}"
            )


@dataclass(frozen=True)
class SparseConfig:
    """What attention becomes, and how much each layer's distance from dense attention counts beside the velocity's."""

    attention: SparseAttentionConfig = field(default_factory=SparseAttentionConfig)
    layer_weight: float = 0.1


@dataclass(frozen=True)
class TrainingBucket:
    """Windows of `num_frames` frames (1: single latents, as images) from clips of `size`, in some of the steps.

    `probability` is relative to that of the stage's other buckets.
    """

    size: str = "160x96"
    num_frames: int = 32
    probability: float = 1.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+x\d+", self.size):
            raise ValueError(f"bucket size {self.size!r}: expected WIDTHxHEIGHT, for example 160x96")
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
        width, height = map(int, self.size.split("x"))
        return self.num_latents * (width // 16) * (height // 16)


@dataclass(frozen=True)
class StageConfig:
    """One stage.

    A step takes `batch_size` windows of the first bucket, or as many of another as hold about the same number of
    tokens, in `micro_batches` equal parts that workers share or take one after the other: the number of workers
    changes nothing about what is learned. A reader mixes the windows of `pool_clips` clips at a time and draws each
    `visits` times, which pays where preparing a clip is dear.
    `keep_states` states to resume from are kept; of older ones the averaged weights go to the archive.

    At each save the averaged weights are tried on `validation_batches` batches that training never sees; 0 is none.
    Parts that this stage creates have the sizes of `model`: a name in `configs/models/`, or a YAML file; inverse
    dynamics has those of `idm_model`.
    """

    stage: StageName
    model: str = "nano"
    steps: int = 2000
    batch_size: int = 8
    micro_batches: int = 1
    buckets: tuple[TrainingBucket, ...] = (TrainingBucket(),)
    pool_clips: int = 32
    visits: int = 1
    keep_states: int = 5
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    ema_decay: float = 0.998
    seed: int = 0
    log_every: int = 20
    save_every: int = 200
    validation_batches: int = 4
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    vae_loss: VAELossConfig = field(default_factory=VAELossConfig)
    decoder_loss: DecoderLossConfig = field(default_factory=DecoderLossConfig)
    flow: FlowLossConfig = field(default_factory=FlowLossConfig)
    turbo: TurboConfig = field(default_factory=TurboConfig)
    sparse: SparseConfig = field(default_factory=SparseConfig)
    idm_model: InverseDynamicsConfig = field(default_factory=InverseDynamicsConfig)
    idm_loss: InverseDynamicsLossConfig = field(default_factory=InverseDynamicsLossConfig)

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

"""What one training stage does; loaded from `configs/stages/*.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gamegen.models.instructnet import InstructNetConfig
from gamegen.models.inverse_dynamics import InverseDynamicsConfig
from gamegen.models.msdit import MSDiTConfig
from gamegen.models.vae import VAEConfig
from gamegen.training.discriminator import DiscriminatorConfig

StageName = Literal["vae", "foundation", "instructnet", "turbo", "decoder", "idm"]


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
    """Reconstruction is L1 plus `gradient_weight` times L1 of image gradients; KL keeps latents near unit size."""

    gradient_weight: float = 0.25
    kl_weight: float = 3e-4
    crop: int = 96


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
class FlowLossConfig:
    """The rectified-flow objective with diffusion forcing.

    Levels are logit-normal with mean `level_shift`, or `start_level_shift` where no latent comes before. The latent
    before each one is given with noise uniform up to `previous_noise`; it is masked with probability
    `text_to_video` (then the window begins a world), the text is dropped with probability `text_drop`. The loss is
    weighted by how much a latent changed.
    With InstructNet: `uncontrolled` of the windows carry no control; of the rest `keys_only`, `words_only`
    carry one kind and the others both. From `own_start` of the run on, `own_predictions` of the windows have
    their previous latents replaced by the model's own predictions, against drift.
    `image_share` of the steps take single latents with nothing before them, as many as a step of windows has:
    a world's first picture is drawn from the words alone, and windows hardly teach that.
    `still_windows` of the windows are drawn around a moment without keys, and latents that equal the one before
    them count `still_weight` times: footage is mostly movement, and a world that cannot stand still shimmers.
    `train_foundation` false freezes the foundation while InstructNet learns.
    """

    level_shift: float = 0.7
    start_level_shift: float = 2.0
    previous_noise: float = 0.35
    text_to_video: float = 0.25
    text_drop: float = 0.25
    uncontrolled: float = 0.2
    keys_only: float = 0.3
    words_only: float = 0.1
    own_predictions: float = 0.25
    own_start: float = 0.5
    transition_windows: float = 0.25
    still_windows: float = 0.15
    still_weight: float = 4.0
    image_share: float = 0.25
    train_foundation: bool = False


@dataclass(frozen=True)
class TurboConfig:
    """Discrete consistency distillation: `num_levels` on the schedule of `shift`, teacher guidance, target EMA.

    `huber_width` is where the pseudo-Huber metric turns linear, in standard deviations of a latent.
    `num_steps` is what the distilled model is then sampled with.
    """

    num_levels: int = 24
    shift: float = 3.0
    guidance_scale: float = 2.0
    huber_width: float = 0.1
    target_ema: float = 0.95
    num_steps: int = 2
    first_steps: int = 6


@dataclass(frozen=True)
class StageConfig:
    """One stage. `window` is in latent frames; `buffer_clips` clips are held in memory and windows drawn from them.

    `vae`, `foundation_model`, `instructnet_model` and `idm_model` are the sizes of parts this stage creates.
    """

    stage: StageName
    steps: int = 2000
    batch_size: int = 8
    window: int = 6
    buffer_clips: int = 1000
    ema_decay: float = 0.998
    seed: int = 0
    log_every: int = 20
    save_every: int = 200
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    foundation_model: MSDiTConfig = field(default_factory=MSDiTConfig)
    instructnet_model: InstructNetConfig = field(default_factory=InstructNetConfig)
    vae_loss: VAELossConfig = field(default_factory=VAELossConfig)
    decoder_loss: DecoderLossConfig = field(default_factory=DecoderLossConfig)
    flow: FlowLossConfig = field(default_factory=FlowLossConfig)
    turbo: TurboConfig = field(default_factory=TurboConfig)
    idm_model: InverseDynamicsConfig = field(default_factory=InverseDynamicsConfig)
    idm_loss: InverseDynamicsLossConfig = field(default_factory=InverseDynamicsLossConfig)

"""Settings of the Serve application, read from `gamegen/configs/serve/*.yaml`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deployments.limits import MAX_SOCKET_MESSAGE_BYTES
from deployments.videos.settings import VideoSettings
from deployments.workers.settings import WorkerSettings
from gamegen.config import config_file, load_yaml
from gamegen.constants import FPS

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9._~:\[\]-]+")
DEFAULT_SETTINGS = "local"
CLUSTER_SETTINGS = "cluster"
"""The shipped settings for two worker nodes or more."""


@dataclass(frozen=True, kw_only=True)
class IngressSettings:
    """Ingress replicas, and the limits of play.

    All ingress replicas together serve up to `max_sessions` playing sessions, as far as the world replicas have
    capacity, and `max_queued` that wait for a place. A session without a player is kept for `resume_timeout_s`; one
    whose player is idle for `idle_timeout_s`, or plays for `session_timeout_s`, is closed and can be resumed. A session
    is shown at `target_fps` until its client asks for another rate; a frame is 1/24 s of the world at any rate. Frames
    beyond `max_unacknowledged_frames` that a client has not acknowledged are dropped. `max_messages_per_s` and
    `max_instructions_per_s` limit what a client sends; the instructions in a session's log have at most
    `max_logged_words_bytes` together. A lost world replica is waited for at most `recovery_timeout_s`; each ingress
    replica rebuilds its worlds `rebuilds_at_once`, so that other players keep their frame rate. Each also serves
    sockets directly, at a port of `direct_host`; an empty host opens no port.

    A user has at most `max_sessions_per_user` sessions that play, wait or are about to start; 0 for any number. Users
    are told apart by their address, or by the name that a reverse proxy sends in `user_header`.

    Pages of other web sites are refused unless their origin is one of `allowed_origins` (`https://play.example`, or
    `null` for files and sandboxed frames); those may read the answers too.
    """

    replicas: int = 1
    num_cpus: float = 0.1
    max_sessions: int = 8
    max_queued: int = 8
    max_sessions_per_user: int = 4
    user_header: str = ""
    allowed_origins: tuple[str, ...] = ()
    resume_timeout_s: float = 1800.0
    idle_timeout_s: float = 1800.0
    session_timeout_s: float = 14400.0
    hello_timeout_s: float = 10.0
    silence_timeout_s: float = 60.0
    max_messages_per_s: int = 240
    max_instructions_per_s: int = 4
    max_logged_words_bytes: int = 1048576
    recovery_timeout_s: float = 90.0
    rebuilds_at_once: int = 1
    graceful_shutdown_s: float = 20.0
    direct_host: str = "127.0.0.1"
    max_message_bytes: int = 16384
    max_image_bytes: int = 8388608
    max_video_bytes: int = 8388608
    max_video_prompt_bytes: int = 2097152
    max_unacknowledged_frames: int = 48
    target_fps: int = FPS

    def __post_init__(self) -> None:
        _check_positive(
            self,
            "replicas",
            "max_sessions",
            "resume_timeout_s",
            "idle_timeout_s",
            "recovery_timeout_s",
            "session_timeout_s",
            "hello_timeout_s",
            "silence_timeout_s",
            "max_messages_per_s",
            "max_message_bytes",
            "max_unacknowledged_frames",
            "target_fps",
            "max_instructions_per_s",
            "max_logged_words_bytes",
            "rebuilds_at_once",
        )
        if self.max_sessions_per_user < 0:
            raise ValueError(
                f"IngressSettings.max_sessions_per_user = {self.max_sessions_per_user}: use 0 for any number"
            )
        _check_origins(self.allowed_origins)
        # Imported here, since importing the settings should not load the codecs.
        from gamegen.media.images import MAX_IMAGE_BYTES
        from gamegen.media.untrusted import MAX_PROMPT_BYTES, MAX_VIDEO_BYTES

        _check_within(self, max_image_bytes=MAX_IMAGE_BYTES, max_video_bytes=MAX_VIDEO_BYTES)
        _check_within(self, max_video_prompt_bytes=MAX_PROMPT_BYTES)
        if self.max_message_bytes > MAX_SOCKET_MESSAGE_BYTES:
            raise ValueError(
                f"IngressSettings.max_message_bytes = {self.max_message_bytes}: the proxy takes at most "
                f"{MAX_SOCKET_MESSAGE_BYTES}"
            )


@dataclass(frozen=True, kw_only=True)
class TextEncoderSettings:
    """Replicas that encode texts into token states."""

    replicas: int = 1
    num_cpus: float = 0.1
    threads: int = 1
    max_batch: int = 16
    cached_texts: int = 1024

    def __post_init__(self) -> None:
        _check_positive(self, "replicas", "threads", "max_batch", "cached_texts")


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """Replicas that hold and step worlds.

    `slots` is the number of worlds a replica keeps in its cache, enough to take over every session when other
    replicas die; when they are full, the world idle for longest is evicted and restored when next stepped. With
    several players the loop waits `gather_s` at a chunk boundary for requests that are about to come, so that they
    share a forward pass. The ingress takes a snapshot every `snapshot_every_chunks`. Where more than
    `most_late_share` of the chunks are late, or slower than requested, a replica offers less capacity than it has
    slots; a share of 1 always offers all of them. `threads` 0 uses half of the machine's cores. With `max_replicas`
    above `replicas` their number follows the players: more after `upscale_delay_s`, fewer after `downscale_delay_s`.
    """

    replicas: int = 1
    max_replicas: int = 1
    upscale_delay_s: float = 3.0
    downscale_delay_s: float = 60.0
    num_cpus: float = 0.4
    threads: int = 0
    slots: int = 8
    most_late_share: float = 0.05
    gather_s: float = 0.01
    snapshot_every_chunks: int = 6
    graceful_shutdown_s: float = 10.0

    def __post_init__(self) -> None:
        _check_positive(self, "replicas", "slots", "snapshot_every_chunks", "most_late_share")
        if self.most_late_share > 1:
            raise ValueError(
                f"WorldSettings.most_late_share = {self.most_late_share}: use a share of at most 1, 0.05 for 5 %"
            )
        _check_replicas(self)

    @property
    def is_autoscaled(self) -> bool:
        """True if the number of replicas follows the players."""
        return self.max_replicas > self.replicas

    @property
    def num_shards(self) -> int:
        """Number of groups of sessions, each of which stays on one replica; many groups spread evenly."""
        return 1 if self.max_replicas == 1 else 16 * self.max_replicas

    @property
    def engine_threads(self) -> int:
        """Threads that the model computes with.

        Not all cores: threads synchronise at every operation, so one core that the decoder, the ingress or a browser
        takes would stall all of them.
        """
        return self.threads or max(1, (os.cpu_count() or 1) // 2)


@dataclass(frozen=True, kw_only=True)
class DecoderSettings:
    """Replicas that decode latents into JPEG files or H.264 fragments; a higher `h264_crf` is a lower quality."""

    replicas: int = 1
    num_cpus: float = 0.2
    threads: int = 1
    max_batch: int = 8
    jpeg_quality: int = 85
    h264_crf: int = 22

    def __post_init__(self) -> None:
        _check_positive(self, "replicas", "threads", "max_batch", "jpeg_quality", "h264_crf")


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """Replicas that generate clips; with `max_replicas` above `replicas` their number follows the queue.

    `niceness` gives play priority where both share the cores. Every forward pass has `rows` clips, 0 for a number that
    suits the device; a clip is reproduced bit for bit only with the same `rows`.
    """

    replicas: int = 1
    max_replicas: int = 1
    upscale_delay_s: float = 10.0
    downscale_delay_s: float = 300.0
    num_cpus: float = 0.2
    threads: int = 1
    niceness: int = 10
    rows: int = 0
    graceful_shutdown_s: float = 20.0
    work: WorkerSettings = field(default_factory=WorkerSettings)

    def __post_init__(self) -> None:
        _check_positive(self, "replicas", "threads")
        _check_replicas(self)

    @property
    def is_autoscaled(self) -> bool:
        """True if the number of replicas follows the queue."""
        return self.max_replicas > self.replicas


@dataclass(frozen=True, kw_only=True)
class ClerkSettings:
    """Replicas that check orders, send webhooks and remove expired files.

    An order of a replica without a heartbeat for `lease_s` goes to another.
    """

    replicas: int = 1
    num_cpus: float = 0.01
    lease_s: float = 30.0

    def __post_init__(self) -> None:
        _check_positive(self, "replicas", "lease_s")


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Settings of the whole application; `model` is a shipped model's name or a checkpoint folder, with changes if any:
    nano:num_steps=4.

    A node has at most `max_replicas_per_node` replicas of each kind, 0 for any number: with 1, a lost node never takes
    all replicas of a kind along. With `draws_blanks` clips are black and use no model, to measure the other costs.
    """

    model: str = "nano"
    draws_blanks: bool = False
    max_replicas_per_node: int = 0
    ingress: IngressSettings = field(default_factory=IngressSettings)
    text_encoder: TextEncoderSettings = field(default_factory=TextEncoderSettings)
    world: WorldSettings = field(default_factory=WorldSettings)
    decoder: DecoderSettings = field(default_factory=DecoderSettings)
    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    clerk: ClerkSettings = field(default_factory=ClerkSettings)
    videos: VideoSettings = field(default_factory=VideoSettings)

    def __post_init__(self) -> None:
        if self.max_replicas_per_node < 0:
            raise ValueError(
                f"ServeSettings.max_replicas_per_node = {self.max_replicas_per_node}: use 0 for any number"
            )
        slots, sessions = self.world.slots * self.world.max_replicas, self.ingress.max_sessions
        if slots < sessions:
            raise ValueError(
                f"world.slots times world.max_replicas is {slots}, less than ingress.max_sessions = {sessions}: "
                "raise the slots or lower the sessions"
            )


def load_settings(name: str | Path = DEFAULT_SETTINGS) -> ServeSettings:
    """The settings of a shipped name or a YAML file; raises ValueError naming the file and the key that is wrong."""
    return load_yaml(ServeSettings, config_file("serve", str(name)))


def _check_origins(origins: Sequence[str]) -> None:
    for origin in origins:
        if origin != "null" and not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"IngressSettings.allowed_origins: {origin!r} is not an origin: write https://play.example or "
                "http://localhost:3000, in small letters and without a path"
            )


def _check_within(settings: object, **limits: int) -> None:
    for name, limit in limits.items():
        value = getattr(settings, name)
        if not 0 < value <= limit:
            raise ValueError(f"{type(settings).__name__}.{name} = {value}: use a number from 1 to {limit}")


def _check_replicas(settings: WorldSettings | GeneratorSettings) -> None:
    if settings.max_replicas < settings.replicas:
        raise ValueError(
            f"{type(settings).__name__}.max_replicas = {settings.max_replicas} is less than "
            f"replicas = {settings.replicas}"
        )


def _check_positive(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value <= 0:
            raise ValueError(f"{type(settings).__name__}.{name} = {value}: use a number above 0")

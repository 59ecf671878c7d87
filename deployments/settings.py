"""The typed configuration of the Serve application, read from `configs/serve/*.yaml`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from deployments.videos.settings import VideoSettings
from deployments.videos.working import WorkerSettings
from gamegen.config import load_yaml

MAX_SOCKET_MESSAGE_BYTES = 256 * 1024
"""What the proxy takes of one message; whoever sends more is sent away."""
_SETTINGS_FOLDER = Path(__file__).parent.parent / "configs" / "serve"
DEFAULT_SETTINGS = _SETTINGS_FOLDER / "local.yaml"
CLUSTER_SETTINGS = _SETTINGS_FOLDER / "cluster.yaml"
"""For two worker nodes or more."""


@dataclass(frozen=True)
class IngressSettings:
    """What one ingress process allows its clients.

    Of all ingress replicas together, `max_sessions` play at once, as far as the world replicas have places, and
    `max_queued` more may wait for one. A session that nobody plays is kept for `resume_timeout_s`; one whose player
    does nothing for `idle_timeout_s`, or plays for `session_timeout_s`, is closed, and can be taken up again. A client
    may leave `max_unacknowledged_frames` unanswered, later ones are dropped, and send so many messages a second, and so
    many instructions, each of which is encoded; the words in a session's log have `max_logged_words_bytes` together. A
    lost world replica is waited for at most `recovery_timeout_s`, and its worlds are brought back elsewhere
    `rebuilds_at_once` by each ingress replica, so that those who play there keep their rate. Each also takes sockets
    directly, at a port of `direct_host`; an empty one opens none.

    One user has at most `max_sessions_per_user` sessions that are played, queued or about to begin; 0 for any number. A
    user is an address other than this machine's own, or whom a reverse proxy names in `user_header`.
    """

    replicas: int = 1
    num_cpus: float = 0.1
    max_sessions: int = 8
    max_queued: int = 8
    max_sessions_per_user: int = 4
    user_header: str = ""
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

    def __post_init__(self) -> None:
        _positive(
            self, "replicas", "max_sessions", "resume_timeout_s", "idle_timeout_s", "recovery_timeout_s"
        )
        _positive(self, "session_timeout_s", "hello_timeout_s", "silence_timeout_s", "max_messages_per_s")
        _positive(self, "max_message_bytes", "max_unacknowledged_frames")
        _positive(self, "max_instructions_per_s", "max_logged_words_bytes", "rebuilds_at_once")
        if self.max_sessions_per_user < 0:
            raise ValueError(
                f"IngressSettings.max_sessions_per_user = {self.max_sessions_per_user}: use 0 for any number"
            )
        # The proxy takes this module too, and needs no codecs.
        from gamegen.uploaded_video import MAX_PROMPT_BYTES, MAX_VIDEO_BYTES
        from gamegen.video import MAX_IMAGE_BYTES

        _within(self, max_image_bytes=MAX_IMAGE_BYTES, max_video_bytes=MAX_VIDEO_BYTES)
        _within(self, max_video_prompt_bytes=MAX_PROMPT_BYTES)
        if self.max_message_bytes > MAX_SOCKET_MESSAGE_BYTES:
            raise ValueError(
                f"IngressSettings.max_message_bytes = {self.max_message_bytes}: the proxy takes at most "
                f"{MAX_SOCKET_MESSAGE_BYTES}"
            )


@dataclass(frozen=True)
class TextEncoderSettings:
    """Replicas that turn words into token states."""

    replicas: int = 1
    num_cpus: float = 0.1
    threads: int = 1
    max_batch: int = 16
    cached_texts: int = 1024

    def __post_init__(self) -> None:
        _positive(self, "replicas", "threads", "max_batch", "cached_texts")


@dataclass(frozen=True)
class WorldSettings:
    """Replicas that hold and step worlds.

    `slots` is the number of worlds a replica keeps in its cache, enough to take over every session when other
    replicas die; when they are full the one idle for longest makes room and is restored when next stepped.
    With several players the loop waits `gather_s` at a chunk boundary for those who are about to ask, so that
    they share a forward pass. The ingress takes a snapshot every `snapshot_every_chunks`.
    Where more than `most_late_share` of the chunks come late, or slower than was asked for, a replica offers fewer
    places than it has slots; 1 offers all of them whatever happens.
    `threads` 0 takes half of the machine's cores. With `max_replicas` above `replicas` their number follows the
    players: more after `upscale_delay_s`, fewer after `downscale_delay_s`.
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
        _positive(self, "replicas", "slots", "snapshot_every_chunks", "most_late_share")
        if self.most_late_share > 1:
            raise ValueError(
                f"WorldSettings.most_late_share = {self.most_late_share}: use a share of at most 1, 0.05 for 5 %"
            )
        _in_order(self)

    @property
    def is_autoscaled(self) -> bool:
        """Whether the number of replicas follows the players."""
        return self.max_replicas > self.replicas

    @property
    def lanes(self) -> int:
        """Sets of sessions that stay together on one replica; enough of them to share them out evenly."""
        return 1 if self.max_replicas == 1 else 16 * self.max_replicas

    @property
    def engine_threads(self) -> int:
        """Threads the model computes with.

        Not all cores: threads that wait for each other at every operation stall all of them when the decoder, the
        ingress or a browser takes one core away.
        """
        return self.threads or max(1, (os.cpu_count() or 1) // 2)


@dataclass(frozen=True)
class DecoderSettings:
    """Replicas that turn latents into JPEG files, or fragments of H.264: of these a higher `h264_crf` is coarser."""

    replicas: int = 1
    num_cpus: float = 0.2
    threads: int = 1
    max_batch: int = 8
    jpeg_quality: int = 85
    h264_crf: int = 22

    def __post_init__(self) -> None:
        _positive(self, "replicas", "threads", "max_batch", "jpeg_quality", "h264_crf")


@dataclass(frozen=True)
class GeneratorSettings:
    """Replicas that draw clips; with `max_replicas` above `replicas` their number follows the queue.

    `niceness` lets play go first where both share the cores. Every pass has `rows` clips, 0 for what suits the device:
    a clip is the same to the last bit only where they are the same.
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
        _positive(self, "replicas", "threads")
        _in_order(self)

    @property
    def is_autoscaled(self) -> bool:
        """Whether the number of replicas follows the queue."""
        return self.max_replicas > self.replicas


@dataclass(frozen=True)
class ClerkSettings:
    """Replicas that do what is to be done about orders besides drawing them.

    What a clerk had that was not heard of for `lease_s` goes to another.
    """

    replicas: int = 1
    num_cpus: float = 0.01
    lease_s: float = 30.0

    def __post_init__(self) -> None:
        _positive(self, "replicas", "lease_s")


@dataclass(frozen=True)
class ServeSettings:
    """The whole application; `model` is a shipped model's name or a checkpoint folder, with changes if any:
    nano:num_steps=4.

    Of each kind at most `max_replicas_per_node` are on one node, 0 is any number: with 1, losing a node never takes all
    of a kind along. With `draws_blanks` clips are black and take no model: to measure what the rest costs.
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
        places, sessions = self.world.slots * self.world.max_replicas, self.ingress.max_sessions
        if places < sessions:
            raise ValueError(
                f"world.slots times world.max_replicas is {places}, less than ingress.max_sessions = {sessions}: "
                "raise the slots or lower the sessions"
            )


def load_settings(path: Path = DEFAULT_SETTINGS) -> ServeSettings:
    """Reads a settings file; raises ValueError naming the file and the key that is wrong."""
    return load_yaml(ServeSettings, path)


def _within(settings: object, **limits: int) -> None:
    for name, limit in limits.items():
        value = getattr(settings, name)
        if not 0 < value <= limit:
            raise ValueError(f"{type(settings).__name__}.{name} = {value}: use a number from 1 to {limit}")


def _in_order(settings: WorldSettings | GeneratorSettings) -> None:
    if settings.max_replicas < settings.replicas:
        raise ValueError(
            f"{type(settings).__name__}.max_replicas = {settings.max_replicas} is less than "
            f"replicas = {settings.replicas}"
        )


def _positive(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value <= 0:
            raise ValueError(f"{type(settings).__name__}.{name} = {value}: use a number above 0")

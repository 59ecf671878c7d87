"""The Serve application, built from its settings.

`serve run deployments.app:local` runs it too, with `settings=cluster` or a YAML file of yours; set the
variables of `deployments.environment` and REDIS_URL, DATABASE_URL and OBJECT_STORE_URL first.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from deployments.ingress.ingress import INGRESS_HEALTH_CHECK_S, Ingress
from deployments.replicas.decoder import DecoderDeployment
from deployments.replicas.generator import GeneratorDeployment
from deployments.replicas.maintenance import MaintenanceDeployment
from deployments.replicas.text_encoder import TextEncoderDeployment
from deployments.replicas.world import WorldDeployment
from deployments.sessions.valkey_client import check_store
from deployments.settings import (
    DEFAULT_SETTINGS,
    GeneratorSettings,
    ServeSettings,
    WorldSettings,
    load_settings,
)
from deployments.stores import StoreUrls
from gamegen.service.database.preparation import prepare_database

NAME = "gamegen"

_HEALTH_CHECK_S = 1.0
_METRICS_INTERVAL_S = 1.0
_DRAIN_POLL_S = 0.2
"""Seconds between checks of a draining replica for open requests; Serve's default of 2 s delays idle ones too."""


def build_app(settings: ServeSettings, stores: StoreUrls) -> serve.Application:
    """The whole application: the ingress and the five kinds of replicas behind it."""
    text_encoder = TextEncoderDeployment.options(  # type: ignore[attr-defined]
        num_replicas=settings.text_encoder.replicas,
        max_ongoing_requests=4 * settings.text_encoder.max_batch,
        **_replica(settings, settings.text_encoder.num_cpus),
    ).bind(settings.model, settings.text_encoder)
    world = WorldDeployment.options(  # type: ignore[attr-defined]
        **_num_replicas(settings.world, "deployments.autoscaling:world_policy"),
        # A step, an opening and a closing of every session that may move here.
        max_ongoing_requests=4 * settings.ingress.max_sessions,
        request_router_config=_session_router(),
        graceful_shutdown_timeout_s=settings.world.graceful_shutdown_s,
        # A replica reports its capacity with each health check.
        **_replica(settings, settings.world.num_cpus),
    ).bind(settings.model, settings.world, stores.sessions)
    decoder = DecoderDeployment.options(  # type: ignore[attr-defined]
        num_replicas=settings.decoder.replicas,
        max_ongoing_requests=4 * settings.decoder.max_batch,
        **_replica(settings, settings.decoder.num_cpus),
    ).bind(settings.model, settings.decoder)
    generator = GeneratorDeployment.options(  # type: ignore[attr-defined]
        **_num_replicas(settings.generator, "deployments.autoscaling:clip_policy"),
        # Its orders go back into the queue before.
        graceful_shutdown_timeout_s=settings.generator.graceful_shutdown_s,
        **_replica(settings, settings.generator.num_cpus),
    ).bind(settings, stores.database, stores.objects, text_encoder)
    clerk = MaintenanceDeployment.options(  # type: ignore[attr-defined]
        num_replicas=settings.clerk.replicas, **_replica(settings, settings.clerk.num_cpus)
    ).bind(settings, stores.database, stores.objects)
    return Ingress.options(  # type: ignore[attr-defined]
        num_replicas=settings.ingress.replicas,
        # Each open socket holds a slot for as long as it lasts, and a taken-over one until it has closed.
        max_ongoing_requests=2 * (settings.ingress.max_sessions + settings.ingress.max_queued) + 64,
        # Its players migrate to other replicas before.
        graceful_shutdown_timeout_s=settings.ingress.graceful_shutdown_s,
        **_replica(settings, settings.ingress.num_cpus) | {"health_check_period_s": INGRESS_HEALTH_CHECK_S},
    ).bind(
        settings=settings,
        stores=stores,
        text_encoder=text_encoder,
        world=world,
        decoder=decoder,
        generator=generator,
        clerk=clerk,
    )


def local(args: dict[str, Any]) -> serve.Application:
    """Application builder for `serve run`; its one argument is `settings`, a file instead of local.yaml.

    The stores are tried, and the database is brought to the newest schema.
    """
    if unknown := args.keys() - {"settings"}:
        raise ValueError(f"unknown argument {min(unknown)!r}: use settings=FILE, or none")
    stores = StoreUrls(
        sessions=_required("REDIS_URL", "the Valkey or Redis server that keeps the sessions"),
        database=_required("DATABASE_URL", "the PostgreSQL database that keeps the orders of clips"),
        objects=_required(
            "OBJECT_STORE_URL", "s3://bucket/prefix, or a folder that all machines share, for files"
        ),
    )
    check_store(stores.sessions)
    prepare_database(stores.database)
    return build_app(load_settings(args.get("settings", DEFAULT_SETTINGS)), stores)


def _required(variable: str, meaning: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise ValueError(f"{variable} is not set: name {meaning}")
    return value


def _replica(settings: ServeSettings, num_cpus: float) -> dict[str, Any]:
    return {
        "ray_actor_options": {"num_cpus": num_cpus},
        "max_replicas_per_node": settings.max_replicas_per_node or None,
        "health_check_period_s": _HEALTH_CHECK_S,
        "graceful_shutdown_wait_loop_s": _DRAIN_POLL_S,
        "logging_config": LoggingConfig(log_level=logging.WARNING, enable_access_log=False),
    }


def _num_replicas(settings: WorldSettings | GeneratorSettings, policy_function: str) -> dict[str, Any]:
    if not settings.is_autoscaled:
        return {"num_replicas": settings.replicas}
    policy = AutoscalingPolicy(policy_function=policy_function)
    config = AutoscalingConfig(
        min_replicas=settings.replicas,
        max_replicas=settings.max_replicas,
        metrics_interval_s=_METRICS_INTERVAL_S,
        look_back_period_s=2 * _METRICS_INTERVAL_S,
        upscale_delay_s=settings.upscale_delay_s,
        downscale_delay_s=settings.downscale_delay_s,
        policy=policy,
    )
    return {"autoscaling_config": config}


def _session_router() -> RequestRouterConfig:
    """Routes a session's requests to one replica, without fallbacks, since no other replica has the session."""
    return RequestRouterConfig(
        request_router_class="ray.serve.experimental.consistent_hash_router.ConsistentHashRouter",  # type: ignore[arg-type]
        request_router_kwargs={"num_virtual_nodes": 100, "num_fallback_replicas": 0},
    )

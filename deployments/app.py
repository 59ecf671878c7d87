"""Builds the Serve application from its settings.

`serve run deployments.app:local` runs it too; set the variables of `deployments.environment` and REDIS_URL first.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.schema import LoggingConfig

from deployments.decoder import DecoderDeployment
from deployments.generator import GeneratorDeployment
from deployments.ingress import Ingress
from deployments.settings import ServeSettings, load_settings
from deployments.text_encoder import TextEncoderDeployment
from deployments.world import WorldDeployment

NAME = "gamegen"

_HEALTH_CHECK_S = 3.0


def build_app(settings: ServeSettings, store_url: str) -> serve.Application:
    """The whole application: four kinds of replicas behind the ingress, and the session store at `store_url`."""
    text_encoder = TextEncoderDeployment.options(  # type: ignore[attr-defined]
        num_replicas=settings.text_encoder.replicas,
        max_ongoing_requests=4 * settings.text_encoder.max_batch,
        **_replica(settings.text_encoder.num_cpus),
    ).bind(settings.model, settings.text_encoder)
    world = WorldDeployment.options(  # type: ignore[attr-defined]
        num_replicas=settings.world.replicas,
        # A step, an opening and a closing of every session that may end up here.
        max_ongoing_requests=4 * settings.ingress.max_sessions,
        request_router_config=_session_router(),
        graceful_shutdown_timeout_s=settings.world.graceful_shutdown_s,
        **_replica(settings.world.num_cpus),
    ).bind(settings.model, settings.world, store_url)
    decoder = DecoderDeployment.options(  # type: ignore[attr-defined]
        num_replicas=settings.decoder.replicas,
        max_ongoing_requests=4 * settings.decoder.max_batch,
        **_replica(settings.decoder.num_cpus),
    ).bind(settings.model, settings.decoder)
    generator = GeneratorDeployment.options(  # type: ignore[attr-defined]
        num_replicas=settings.generator.replicas,
        max_ongoing_requests=1,
        **_replica(settings.generator.num_cpus),
    ).bind(settings.model, settings.generator)
    return Ingress.options(  # type: ignore[attr-defined]
        num_replicas=settings.ingress.replicas,
        # Each open socket holds a slot for as long as it lasts, and a taken-over one until it has closed.
        max_ongoing_requests=2 * (settings.ingress.max_sessions + settings.ingress.max_queued) + 64,
        graceful_shutdown_timeout_s=5,
        **_replica(settings.ingress.num_cpus),
    ).bind(settings, store_url, text_encoder, world, decoder, generator)


def local(args: dict[str, Any]) -> serve.Application:
    """Application builder for `serve run`; takes no arguments."""
    if args:
        raise ValueError(f"unknown argument {next(iter(args))!r}: settings are in configs/serve/local.yaml")
    store_url = os.environ.get("REDIS_URL")
    if not store_url:
        raise ValueError("REDIS_URL is not set: name the Valkey or Redis server that keeps the sessions")
    return build_app(load_settings(), store_url)


def _replica(num_cpus: float) -> dict[str, Any]:
    return {
        "ray_actor_options": {"num_cpus": num_cpus},
        "health_check_period_s": _HEALTH_CHECK_S,
        "logging_config": LoggingConfig(log_level=logging.WARNING, enable_access_log=False),
    }


def _session_router() -> RequestRouterConfig:
    """A session's requests go to one replica; it may not fall back, since another lacks the session."""
    return RequestRouterConfig(
        request_router_class="ray.serve.experimental.consistent_hash_router.ConsistentHashRouter",  # type: ignore[arg-type]
        request_router_kwargs={"num_virtual_nodes": 100, "num_fallback_replicas": 0},
    )

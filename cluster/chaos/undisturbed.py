"""Reference renders: the clips of a run drawn in this process, which the service must reproduce bit by bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch

from cluster.chaos.order_requests import OrderRequest
from deployments.settings import ServeSettings
from deployments.videos.orders import OrderInputs, ServedModel, to_order
from deployments.videos.schemas import NewVideo
from gamegen.generation.decode import decode_clip
from gamegen.generation.renderer import ClipConfig, ClipRenderer
from gamegen.models.text import compose_prompt, load_text_encoder
from gamegen.service.orders.order import Order


def order_of(job: OrderRequest, settings: ServeSettings, model: ServedModel) -> Order:
    """The order that the service makes of a request."""
    return to_order(
        NewVideo(**job.body()), model=model, tiers=settings.videos.queue.tiers, inputs=OrderInputs()
    )


def undisturbed(settings: ServeSettings, jobs: Sequence[OrderRequest]) -> Iterator[tuple[str, str]]:
    """Renders each job; yields its request id and the SHA-256 of its frames in hexadecimal."""
    threads = torch.get_num_threads()
    # As the replicas do: sums of other parts are rounded otherwise.
    torch.set_num_threads(settings.generator.threads)
    try:
        renderer = ClipRenderer.load(settings.model, config=ClipConfig(rows=settings.generator.rows or None))
        config = renderer.model.config
        served = ServedModel(
            name=settings.model, width=config.width, height=config.height, sampling=config.sampling
        )
        encoder = load_text_encoder(config.text_encoder)
        for job in jobs:
            order = order_of(job, settings, served)
            words = encoder.encode([compose_prompt(order.prompt, order.perspective)])[0]
            drawing = renderer.begin(order.clip_spec, words)
            while not drawing.is_done:
                renderer.step([drawing])
            frames = decode_clip(renderer.model, drawing.latents)[: order.num_frames]
            yield job.request_id, hashlib.sha256(frames.tobytes()).hexdigest()
    finally:
        torch.set_num_threads(threads)

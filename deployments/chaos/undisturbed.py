"""The same clips drawn by nobody but this process, one after the other: what the service has to come to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch

from deployments.chaos.jobs import Job
from deployments.settings import ServeSettings
from deployments.videos.ordering import Inputs, ServedModel, to_order
from deployments.videos.schemas import NewVideo
from gamegen.clips.decode import decode_window
from gamegen.clips.renderer import ClipConfig, ClipRenderer
from gamegen.models.text import load_text_encoder
from gamegen.videos.order import Order
from gamegen.world import compose_prompt


def order_of(job: Job, settings: ServeSettings, model: ServedModel) -> Order:
    """What the service makes of a job's request."""
    return to_order(NewVideo(**job.body()), model, settings.videos.queue.tiers, Inputs())


def undisturbed(settings: ServeSettings, jobs: Sequence[Job]) -> Iterator[tuple[str, str]]:
    """Each job's request id and the SHA-256 of its frames, in hexadecimal, as they are drawn."""
    threads = torch.get_num_threads()
    # As the replicas do: sums of other parts are rounded otherwise.
    torch.set_num_threads(settings.generator.threads)
    try:
        renderer = ClipRenderer.load(settings.model, config=ClipConfig(rows=settings.generator.rows or None))
        config = renderer.model.config
        served = ServedModel(settings.model, config.width, config.height, config.sampling.guidance_scale)
        encoder = load_text_encoder(config.text_encoder)
        for job in jobs:
            order = order_of(job, settings, served)
            words = encoder.encode([compose_prompt(order.prompt, order.perspective)])[0]
            drawing = renderer.begin(order, words)
            while not drawing.is_done:
                renderer.step([drawing])
            frames = decode_window(renderer.model, drawing.latents)[: order.num_frames]
            yield job.request_id, hashlib.sha256(frames.tobytes()).hexdigest()
    finally:
        torch.set_num_threads(threads)

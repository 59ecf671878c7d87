"""Measurements of an evaluation: each plays some worlds or continues some clips and returns arrays.

A measurement is a function of a context and the indices of its units (seeds or clips) alone: measurements may run
anywhere, in any order, and again. Arrays have one row a unit, but for `pictures/...`, which are kept of the first
units only: strips of frames, uint8 `(strips, frames, H, W, 3)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np
import torch

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.curation.encoded import aligned_operations
from gamegen.evaluation import following, motion, reference_models, video_quality
from gamegen.evaluation.context import CHUNKS_PER_S, PIECE_S, EvaluationContext, SuiteConfig
from gamegen.evaluation.features import feature_network
from gamegen.evaluation.moved_frames import moved_frames
from gamegen.evaluation.revisits import describe_views, look_away, real_revisits
from gamegen.evaluation.rollouts import Advance, WorldBatch
from gamegen.evaluation.samples import Arrays, measure_sample, recognise, sampled, stack, tones
from gamegen.evaluation.scenes import ATTRIBUTES, WINDOW_FRAMES
from gamegen.footage import captions
from gamegen.models.folding import chunk_pixels, from_pixels, to_pixels
from gamegen.models.text import compose_prompt

PLACES = (
    "grassland",
    "desert",
    "snowy plain",
    "savanna",
    "forest",
    "tundra",
    "ice sheet",
    "sandstone desert",
)
WEATHERS = ("clear", "rain", "snow", "fog")
TIMES = ("day", "dusk", "dawn", "night")
BIOMES = tuple(biome for biome in captions.PLACE_WORDS if biome != "wasteland")
THIRD_PERSON_SHARE = 0.3
"""Share of third-person worlds among the walks, about that of footage."""
ORDERS = (
    ("noon", "make it night", "time_of_day", "night"),
    ("noon", "switch to third person", "view", "third"),
    ("noon", "make it dusk", "time_of_day", "dusk"),
    ("night", "make it day", "time_of_day", "day"),
    ("noon", "make it rain", "weather", "rain"),
    ("noon", "let it snow", "weather", "snow"),
    ("noon", "bring in fog", "weather", "fog"),
)
"""A world's time of day, its instruction, and the attribute and value that should be recognised after it."""
PLAY_KEYS: tuple[set[str], ...] = (
    {"w"},
    {"w", "left"},
    {"right"},
    {"w", "d"},
    {"left"},
    {"s"},
    {"w", "space"},
    set(),
)
CONTRASTS = ("night", "noon", "desert", "snow")
_STRIPS, _STRIP_FRAMES = 3, 8

Units = Literal["seeds", "played seeds", "clips", "continued clips"]


@dataclass(frozen=True)
class Measurement:
    """One kind of measurement: `run` measures units of one kind, `chunks` estimates those generated for one unit."""

    run: Callable[[EvaluationContext, range, Advance], Arrays]
    units: Units
    chunks: Callable[[SuiteConfig], int]


def keys(context: EvaluationContext, units: range, advance: Advance) -> Arrays:
    """Optical flow under held keys in worlds at noon, once the keys have had time to act."""
    config, worlds = context.config, _worlds(context, units, advance)
    arrays = Arrays()
    for action, held in motion.KEYS.items():
        worlds.open([_plain(i, "noon") for i in units], _seeds(context, units))
        worlds.play(set(), config.warm_chunks)
        frames = worlds.play(held, config.hold_chunks)
        arrays |= stack([motion.motion_of(action, video[len(video) // 2 :]) for video in frames])
        arrays[f"pictures/{action}"] = _strips(frames)
    return arrays


def contrasts(context: EvaluationContext, units: range, advance: Advance) -> Arrays:
    """Brightness and warmth of each seed's world under one word each."""
    worlds, arrays = _worlds(context, units, advance), Arrays()
    for word in CONTRASTS:
        worlds.open([compose_prompt(word, "first")] * len(units), _seeds(context, units))
        frames = worlds.play({"w"}, context.config.contrast_chunks)
        arrays[f"{word} brightness"] = np.array([motion.brightness(video) for video in frames])
        arrays[f"{word} warmth"] = np.array([motion.warmth(video) for video in frames])
        arrays[f"pictures/prompt {word}"] = frames[None, :_STRIP_FRAMES, -1]
    return arrays


def walks(context: EvaluationContext, units: range, advance: Advance) -> Arrays:
    """Scene and quality of walks in worlds of every biome, weather, time and view."""
    worlds = _worlds(context, units, advance)
    facts = [drawn_facts(seed) for seed in _seeds(context, units)]
    prompts = [captions.compose_prompts(fact, Random(i), 1)[0] for i, fact in zip(units, facts, strict=True)]
    worlds.open(prompts, _seeds(context, units), [fact.view for fact in facts])
    frames = worlds.play({"w"}, context.config.walk_chunks)
    samples = [
        measure_sample(v, _asked(f), p, context) for v, f, p in zip(frames, facts, prompts, strict=True)
    ]
    return {**stack(samples), "pictures/walking": _strips(frames)}


def orders(context: EvaluationContext, units: range, advance: Advance) -> Arrays:
    """Worlds that are instructed to change, each by its own order, and all of them to become night."""
    config, worlds = context.config, _worlds(context, units, advance)
    given = [ORDERS[i % len(ORDERS)] for i in units]
    after = _told(
        worlds, [_plain(i, order[0]) for i, order in zip(units, given, strict=True)], given, context, units
    )
    told = [
        recognise(video[-WINDOW_FRAMES:], {name: value}, context)[0]
        for video, (_, _, name, value) in zip(after, given, strict=True)
    ]
    pictures = {"pictures/orders": _strips(after)}
    worlds.open([_plain(i, "noon") for i in units], _seeds(context, units))
    before = [motion.brightness(v[-4:]) for v in worlds.play({"w"}, config.warm_chunks)]
    worlds.instruct(["make it night"] * len(units))
    frames = worlds.play({"w"}, config.order_chunks)
    darkened = [motion.brightness(v[-4:]) for v in frames]
    return {
        "told": np.stack(told),
        "brightness after / before": np.array(darkened) / np.array(before),
        "pictures/make it night": _strips(frames),
        **pictures,
    }


def revisits(context: EvaluationContext, units: range, advance: Advance) -> Arrays:
    """Features of the views before turning away and after turning back, in worlds at noon.

    Two neighbouring seeds are asked for one place; `words` numbers the places.
    """
    worlds, places = _worlds(context, units, advance), [i // 2 % len(PLACES) for i in units]
    worlds.open([_plain(place, "noon") for place in places], _seeds(context, units))
    views = look_away(worlds, context.config)
    return {
        "before": describe_views(views[:, 0]),
        "back": describe_views(views[:, 2]),
        "words": np.array(places),
        "pictures/before, turned away, back": views[:_STRIPS],
    }


def play(context: EvaluationContext, units: range, advance: Advance) -> Arrays:
    """Long play under changing keys: features at each mark; detail, brightness and colour of every piece."""
    config, worlds = context.config, _worlds(context, units, advance)
    facts = [drawn_facts(seed) for seed in _seeds(context, units)]
    prompts = [captions.compose_prompts(fact, Random(i), 1)[0] for i, fact in zip(units, facts, strict=True)]
    worlds.open(prompts, _seeds(context, units), [fact.view for fact in facts])
    features, curves, strips = [], [], []
    for piece in range(config.play_s // PIECE_S):
        frames = worlds.play(PLAY_KEYS[piece % len(PLAY_KEYS)], PIECE_S * CHUNKS_PER_S)
        curves.append(stack([tones(sampled(video)) for video in frames]))
        if (piece + 1) * PIECE_S in config.marks_s():
            features.append([feature_network().maps(sampled(video)).pooled() for video in frames])
            strips.append(frames[:_STRIPS, -1])
    return {
        "features": np.array(features).swapaxes(0, 1),
        **{name: np.stack([curve[name] for curve in curves], 1) for name in curves[0]},
        "pictures/long play": np.stack(strips, 1),
    }


def real(context: EvaluationContext, units: range, advance: Advance) -> Arrays:
    """Measurements of windows of real clips, spread evenly over each."""
    length = context.config.walk_chunks * FRAMES_PER_CHUNK
    num_windows = min(
        [context.config.windows_per_clip, *(c.clip.num_frames // length for c in context.clips)]
    )
    rows = []
    for i in units:
        clip, frames = context.clips[i], context.clips[i].frames(context.size)
        starts = np.linspace(0, len(frames) - length, num_windows).astype(int)
        ends = [start + length - 1 for start in starts]
        samples = [
            measure_sample(
                frames[end - length + 1 : end + 1], _asked(clip.facts(end)), clip.prompt(end), context
            )
            for end in ends
        ]
        rows.append(stack(samples))
        advance(_real_chunks(context.config))
    return stack(rows)


def next_frames(context: EvaluationContext, units: range, advance: Advance) -> Arrays:
    """Fidelity of the chunk after a stretch of a real clip, generated from its true history and true keys.

    By method, `(clips, predictions)` each: `copy` repeats the last true frame, `warped` and `flow` move it (see
    `moved_frames`), `drawn` is the model's, `streamed` and `reconstructed` are the true chunk through the encoder and
    the small or large decoder.
    """
    config, worlds = context.config, WorldBatch(context.model, context.text_encoder, 1)
    rows = []
    for i in units:
        frames, operations = _clip(context, i)
        places = np.linspace(config.history_chunks, len(operations) - 1, config.predictions_per_clip + 1)
        scores = []
        for place in places.round().astype(int)[1:]:
            start = place - config.history_chunks
            window = frames[start * FRAMES_PER_CHUNK : (place + 1) * FRAMES_PER_CHUNK]
            latents = _encoded(window, context)
            prompt = context.clips[i].prompt(place * FRAMES_PER_CHUNK)
            history = _normalised(latents[:-1], context)
            before = window[:-FRAMES_PER_CHUNK]
            worlds.continue_from(history, operations[start:place], prompt, config.first_seed + i, before)
            drawn = worlds.step(operations[place])[0]
            moved = moved_frames(context.model, window, np.concatenate(operations[start : place + 1]))
            scores.append(_compared(window, {"drawn": drawn} | moved, latents, context))
            advance(config.history_chunks)
        rows.append(stack(scores))
    return stack(rows)


def continuations(context: EvaluationContext, units: range, advance: Advance) -> Arrays:
    """Continuations of real clips under the true keys, beside the true ones."""
    config, worlds = context.config, WorldBatch(context.model, context.text_encoder, 1, advance)
    pairs = []
    for i in units:
        chosen = i * len(context.clips) // len(units)
        frames, operations = _clip(context, chosen)
        start = config.history_chunks
        end = min(
            [
                start + config.continuation_chunks,
                *(c.clip.num_frames // FRAMES_PER_CHUNK for c in context.clips),
            ]
        )
        history = _normalised(_encoded(frames[: start * FRAMES_PER_CHUNK], context), context)
        worlds.continue_from(
            history,
            operations[:start],
            context.clips[chosen].prompt(0),
            config.first_seed + i,
            frames[: start * FRAMES_PER_CHUNK],
        )
        drawn = np.concatenate([worlds.step(operations[k])[0] for k in range(start, end)])
        pairs.append(np.stack([frames[start * FRAMES_PER_CHUNK : end * FRAMES_PER_CHUNK], drawn]))
    return {"pictures/continuations": np.concatenate(pairs)}


def follow(context: EvaluationContext, units: range, advance: Advance) -> Arrays:
    """Agreement of inverse dynamics with the held keys on continued real clips and on the true continuations."""
    config, worlds = context.config, WorldBatch(context.model, context.text_encoder, 1)
    rows = []
    for i in units:
        frames, operations = _clip(context, i)
        start = config.history_chunks
        end = start + following.num_chunks(len(frames), start, config.followed_chunks)
        before, truth = np.split(frames[: end * FRAMES_PER_CHUNK], [start * FRAMES_PER_CHUNK])
        history = _normalised(_encoded(before, context), context)
        prompt = context.clips[i].prompt(0)
        worlds.continue_from(history, operations[:start], prompt, config.first_seed + i, before)
        drawn = np.concatenate([worlds.step(operations[k])[0] for k in range(start, end)])
        done = operations[start:end]
        counts = {
            f"{name} {method}": count
            for method, video in (("drawn", drawn), ("real", truth))
            for name, count in following.followed(before, video, done).items()
        }
        rows.append(counts)
        advance(config.followed_chunks)
    return stack(rows)


MEASUREMENTS: dict[str, Measurement] = {
    "walks": Measurement(walks, "seeds", lambda c: c.walk_chunks),
    "keys": Measurement(keys, "seeds", lambda c: len(motion.KEYS) * (c.warm_chunks + c.hold_chunks)),
    "contrasts": Measurement(contrasts, "seeds", lambda c: len(CONTRASTS) * c.contrast_chunks),
    "orders": Measurement(orders, "seeds", lambda c: 2 * (c.warm_chunks + c.order_chunks)),
    "revisits": Measurement(revisits, "seeds", lambda c: c.warm_chunks + 2 * (c.turn_chunks + c.rest_chunks)),
    "real": Measurement(real, "clips", lambda c: _real_chunks(c)),
    "real revisits": Measurement(real_revisits, "clips", lambda c: 1),
    "next frames": Measurement(next_frames, "clips", lambda c: c.predictions_per_clip * c.history_chunks),
    "following": Measurement(follow, "clips", lambda c: c.followed_chunks),
    "continuations": Measurement(continuations, "continued clips", lambda c: c.continuation_chunks),
    "play": Measurement(play, "played seeds", lambda c: c.play_s * CHUNKS_PER_S),
}


def drawn_facts(seed: int) -> captions.Facts:
    """Facts asked of a seed's world; every value is equally likely."""
    rng = Random(seed)
    view = "third" if rng.random() < THIRD_PERSON_SHARE else "first"
    return captions.Facts("minetest", rng.choice(BIOMES), rng.choice(WEATHERS), rng.choice(TIMES), view)


def _real_chunks(config: SuiteConfig) -> int:
    return 2 * config.windows_per_clip


def _asked(facts: captions.Facts) -> dict[str, str]:
    return {name: getattr(facts, name) for name in ATTRIBUTES}


def _plain(index: int, time: str) -> str:
    return compose_prompt(f"{PLACES[index % len(PLACES)]} at {time}", "first")


def _seeds(context: EvaluationContext, units: range) -> list[int]:
    return [context.config.first_seed + i for i in units]


def _worlds(context: EvaluationContext, units: range, advance: Advance) -> WorldBatch:
    return WorldBatch(context.model, context.text_encoder, len(units), advance, context.gallery)


def _told(
    worlds: WorldBatch, prompts: list[str], given, context: EvaluationContext, units: range
) -> np.ndarray:
    worlds.open(prompts, _seeds(context, units))
    worlds.play({"w"}, context.config.warm_chunks)
    worlds.instruct([order for _, order, _, _ in given])
    return worlds.play({"w"}, context.config.order_chunks)


def _strips(frames: np.ndarray) -> np.ndarray:
    """Strips of frames spread evenly over the first few worlds' videos."""
    places = np.linspace(0, frames.shape[1] - 1, _STRIP_FRAMES).round().astype(int)
    return frames[:_STRIPS, places]


def _clip(context: EvaluationContext, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames and operations (float32) of a real clip, whole chunks."""
    frames = context.clips[index].frames(context.size)
    num_chunks = len(frames) // FRAMES_PER_CHUNK
    operations = aligned_operations(context.clips[index].clip, num_chunks).astype(np.float32)
    return frames[: num_chunks * FRAMES_PER_CHUNK], operations


@torch.inference_mode()
def _encoded(frames: np.ndarray, context: EvaluationContext) -> torch.Tensor:
    """Latents `(chunks, C, h, w)` of whole chunks, as the autoencoder gives them."""
    return context.model.vae.encode(from_pixels(torch.from_numpy(frames))[None].to(context.model.device))[0]


def _normalised(latents: torch.Tensor, context: EvaluationContext) -> np.ndarray:
    return context.model.normalise(latents).half().cpu().numpy()


@torch.inference_mode()
def _compared(
    window: np.ndarray, predicted: dict[str, np.ndarray], latents: torch.Tensor, context: EvaluationContext
) -> Arrays:
    """Fidelity of each method to the last chunk of a window, whose true latents are given."""
    vae = context.model.vae
    truth, before = window[-FRAMES_PER_CHUNK:], window[-FRAMES_PER_CHUNK - 1]
    candidates = {
        "copy": np.repeat(before[None], FRAMES_PER_CHUNK, 0),
        **predicted,
        "streamed": chunk_pixels(vae.streaming(latents[-1:], latents[-2:-1]))[0].cpu().numpy(),
        "reconstructed": to_pixels(vae.decode(latents[None])[0, -FRAMES_PER_CHUNK:]).cpu().numpy(),
    }
    measures = {"psnr": video_quality.psnr_db, "ssim": video_quality.ssim}
    if context.reference_models.lpips:
        measures["lpips"] = reference_models.torchscript(context.reference_models.lpips).distance
    return {
        f"{name} {method}": np.array(measure(candidate, truth))
        for name, measure in measures.items()
        for method, candidate in candidates.items()
    }

"""What an evaluation does, part by part: each plays some worlds or some clips and returns arrays.

A part is a function of a bench and the indices of its units (seeds or clips), and of nothing else: parts may run
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

from gamegen.controls import FRAMES_PER_CHUNK
from gamegen.curation.encoded import aligned_operations
from gamegen.evaluation import actions, external, fidelity, following, motion
from gamegen.evaluation.bench import CHUNKS_PER_S, PIECE_S, Bench, SuiteConfig
from gamegen.evaluation.features import feature_network
from gamegen.evaluation.looks import Arrays, look, recognise, sampled, stack, tones
from gamegen.evaluation.rollouts import Advance, Player
from gamegen.evaluation.scenes import ATTRIBUTES, WINDOW_FRAMES
from gamegen.footage import captions
from gamegen.models.vae import chunk_pixels, from_pixels, to_pixels
from gamegen.world import compose_prompt

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
"""Of the worlds that are looked at; footage has about as many."""
ORDERS = (
    ("noon", "make it night", "time_of_day", "night"),
    ("noon", "switch to third person", "view", "third"),
    ("noon", "make it dusk", "time_of_day", "dusk"),
    ("night", "make it day", "time_of_day", "day"),
    ("noon", "make it rain", "weather", "rain"),
    ("noon", "let it snow", "weather", "snow"),
    ("noon", "bring in fog", "weather", "fog"),
)
"""A world's time, what it is then told, and what should be seen after it."""
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
class Part:
    """`run` measures units of one kind; `chunks` are about as many as one unit takes to draw."""

    run: Callable[[Bench, range, Advance], Arrays]
    units: Units
    chunks: Callable[[SuiteConfig], int]


def keys(bench: Bench, units: range, advance: Advance) -> Arrays:
    """Held keys in worlds at noon, measured once they have had time to act."""
    config, player = bench.config, _player(bench, units, advance)
    arrays = Arrays()
    for action, held in actions.KEYS.items():
        player.open([_plain(i, "noon") for i in units], _seeds(bench, units))
        player.play(set(), config.warm_chunks)
        frames = player.play(held, config.hold_chunks)
        arrays |= stack([actions.motion_of(action, video[len(video) // 2 :]) for video in frames])
        arrays[f"pictures/{action}"] = _strips(frames)
    return arrays


def contrasts(bench: Bench, units: range, advance: Advance) -> Arrays:
    """The same seeds under one word each: how bright and how warm are they?"""
    player, arrays = _player(bench, units, advance), Arrays()
    for word in CONTRASTS:
        player.open([compose_prompt(word, "first")] * len(units), _seeds(bench, units))
        frames = player.play({"w"}, bench.config.contrast_chunks)
        arrays[f"{word} brightness"] = np.array([motion.brightness(video) for video in frames])
        arrays[f"{word} warmth"] = np.array([motion.warmth(video) for video in frames])
        arrays[f"pictures/prompt {word}"] = frames[None, :_STRIP_FRAMES, -1]
    return arrays


def walks(bench: Bench, units: range, advance: Advance) -> Arrays:
    """Walking in worlds of every biome, weather, time and view: what is seen, and how well it looks."""
    player = _player(bench, units, advance)
    facts = [drawn_facts(seed) for seed in _seeds(bench, units)]
    prompts = [captions.compose_prompts(fact, Random(i), 1)[0] for i, fact in zip(units, facts, strict=True)]
    player.open(prompts, _seeds(bench, units))
    frames = player.play({"w"}, bench.config.walk_chunks)
    looks = [look(v, _asked(f), p, bench) for v, f, p in zip(frames, facts, prompts, strict=True)]
    return {**stack(looks), "pictures/walking": _strips(frames)}


def orders(bench: Bench, units: range, advance: Advance) -> Arrays:
    """Worlds that are told to change, each its own order, and all of them to become night."""
    config, player = bench.config, _player(bench, units, advance)
    given = [ORDERS[i % len(ORDERS)] for i in units]
    after = _told(
        player, [_plain(i, order[0]) for i, order in zip(units, given, strict=True)], given, bench, units
    )
    told = [
        recognise(video[-WINDOW_FRAMES:], {name: value}, bench)[0]
        for video, (_, _, name, value) in zip(after, given, strict=True)
    ]
    pictures = {"pictures/orders": _strips(after)}
    player.open([_plain(i, "noon") for i in units], _seeds(bench, units))
    before = [motion.brightness(v[-4:]) for v in player.play({"w"}, config.warm_chunks)]
    player.instruct(["make it night"] * len(units))
    frames = player.play({"w"}, config.order_chunks)
    darkened = [motion.brightness(v[-4:]) for v in frames]
    return {
        "told": np.stack(told),
        "brightness after / before": np.array(darkened) / np.array(before),
        "pictures/make it night": _strips(frames),
        **pictures,
    }


def play(bench: Bench, units: range, advance: Advance) -> Arrays:
    """Long play under changing keys: features at each mark; detail, brightness and colour all along."""
    config, player = bench.config, _player(bench, units, advance)
    prompts = [
        captions.compose_prompts(drawn_facts(seed), Random(i), 1)[0]
        for i, seed in zip(units, _seeds(bench, units), strict=True)
    ]
    player.open(prompts, _seeds(bench, units))
    features, curves, strips = [], [], []
    for piece in range(config.play_s // PIECE_S):
        frames = player.play(PLAY_KEYS[piece % len(PLAY_KEYS)], PIECE_S * CHUNKS_PER_S)
        curves.append(stack([tones(sampled(video)) for video in frames]))
        if (piece + 1) * PIECE_S in config.marks_s():
            features.append([feature_network().maps(sampled(video)).pooled() for video in frames])
            strips.append(frames[:_STRIPS, -1])
    return {
        "features": np.array(features).swapaxes(0, 1),
        **{name: np.stack([curve[name] for curve in curves], 1) for name in curves[0]},
        "pictures/long play": np.stack(strips, 1),
    }


def real(bench: Bench, units: range, advance: Advance) -> Arrays:
    """The same looks at windows of real clips, spread evenly over each."""
    length = bench.config.walk_chunks * FRAMES_PER_CHUNK
    num_windows = min([bench.config.windows_per_clip, *(c.clip.num_frames // length for c in bench.clips)])
    rows = []
    for i in units:
        clip, frames = bench.clips[i], bench.clips[i].frames(bench.size)
        starts = np.linspace(0, len(frames) - length, num_windows).astype(int)
        ends = [start + length - 1 for start in starts]
        looks = [
            look(frames[end - length + 1 : end + 1], _asked(clip.facts(end)), clip.prompt(end), bench)
            for end in ends
        ]
        rows.append(stack(looks))
        advance(_real_chunks(bench.config))
    return stack(rows)


def next_frames(bench: Bench, units: range, advance: Advance) -> Arrays:
    """The chunk after a stretch of a real clip, drawn from its true history and true keys.

    By method, `(clips, predictions)` each: `copy` repeats the last true frame; `drawn` is the model's; `streamed` and
    `reconstructed` are the true chunk through the encoder and the small or large decoder.
    """
    config, player = bench.config, Player(bench.model, bench.text_encoder, 1)
    rows = []
    for i in units:
        frames, operations = _clip(bench, i)
        places = np.linspace(config.history_chunks, len(operations) - 1, config.predictions_per_clip + 1)
        looks = []
        for place in places.round().astype(int)[1:]:
            start = place - config.history_chunks
            window = frames[start * FRAMES_PER_CHUNK : (place + 1) * FRAMES_PER_CHUNK]
            latents = _encoded(window, bench)
            prompt = bench.clips[i].prompt(place * FRAMES_PER_CHUNK)
            history = _normalised(latents[:-1], bench)
            player.continue_from(history, operations[start:place], prompt, config.first_seed + i)
            looks.append(_compared(window, player.step(operations[place])[0], latents, bench))
            advance(config.history_chunks)
        rows.append(stack(looks))
    return stack(rows)


def continuations(bench: Bench, units: range, advance: Advance) -> Arrays:
    """Real clips that the model goes on with by itself under the true keys, beside what really came."""
    config, player = bench.config, Player(bench.model, bench.text_encoder, 1, advance)
    pairs = []
    for i in units:
        chosen = i * len(bench.clips) // len(units)
        frames, operations = _clip(bench, chosen)
        start = config.history_chunks
        end = min(
            [
                start + config.continuation_chunks,
                *(c.clip.num_frames // FRAMES_PER_CHUNK for c in bench.clips),
            ]
        )
        history = _normalised(_encoded(frames[: start * FRAMES_PER_CHUNK], bench), bench)
        player.continue_from(
            history, operations[:start], bench.clips[chosen].prompt(0), config.first_seed + i
        )
        drawn = np.concatenate([player.step(operations[k])[0] for k in range(start, end)])
        pairs.append(np.stack([frames[start * FRAMES_PER_CHUNK : end * FRAMES_PER_CHUNK], drawn]))
    return {"pictures/continuations": np.concatenate(pairs)}


def follow(bench: Bench, units: range, advance: Advance) -> Arrays:
    """What inverse dynamics reads off real clips that the model goes on with under their keys, and off the truth."""
    config, player = bench.config, Player(bench.model, bench.text_encoder, 1)
    rows = []
    for i in units:
        frames, operations = _clip(bench, i)
        start = config.history_chunks
        end = start + following.num_chunks(len(frames), start, config.followed_chunks)
        before, truth = np.split(frames[: end * FRAMES_PER_CHUNK], [start * FRAMES_PER_CHUNK])
        history = _normalised(_encoded(before, bench), bench)
        player.continue_from(history, operations[:start], bench.clips[i].prompt(0), config.first_seed + i)
        drawn = np.concatenate([player.step(operations[k])[0] for k in range(start, end)])
        done = operations[start:end]
        counts = {
            f"{name} {method}": count
            for method, video in (("drawn", drawn), ("real", truth))
            for name, count in following.followed(before, video, done).items()
        }
        rows.append(counts)
        advance(config.followed_chunks)
    return stack(rows)


PARTS: dict[str, Part] = {
    "walks": Part(walks, "seeds", lambda c: c.walk_chunks),
    "keys": Part(keys, "seeds", lambda c: len(actions.KEYS) * (c.warm_chunks + c.hold_chunks)),
    "contrasts": Part(contrasts, "seeds", lambda c: len(CONTRASTS) * c.contrast_chunks),
    "orders": Part(orders, "seeds", lambda c: 2 * (c.warm_chunks + c.order_chunks)),
    "real": Part(real, "clips", lambda c: _real_chunks(c)),
    "next frames": Part(next_frames, "clips", lambda c: c.predictions_per_clip * c.history_chunks),
    "following": Part(follow, "clips", lambda c: c.followed_chunks),
    "continuations": Part(continuations, "continued clips", lambda c: c.continuation_chunks),
    "play": Part(play, "played seeds", lambda c: c.play_s * CHUNKS_PER_S),
}


def drawn_facts(seed: int) -> captions.Facts:
    """What the world of a seed is asked to be; every value as likely as the others."""
    rng = Random(seed)
    view = "third" if rng.random() < THIRD_PERSON_SHARE else "first"
    return captions.Facts("minetest", rng.choice(BIOMES), rng.choice(WEATHERS), rng.choice(TIMES), view)


def _real_chunks(config: SuiteConfig) -> int:
    return 2 * config.windows_per_clip


def _asked(facts: captions.Facts) -> dict[str, str]:
    return {name: getattr(facts, name) for name in ATTRIBUTES}


def _plain(index: int, time: str) -> str:
    return compose_prompt(f"{PLACES[index % len(PLACES)]} at {time}", "first")


def _seeds(bench: Bench, units: range) -> list[int]:
    return [bench.config.first_seed + i for i in units]


def _player(bench: Bench, units: range, advance: Advance) -> Player:
    return Player(bench.model, bench.text_encoder, len(units), advance)


def _told(player: Player, prompts: list[str], given, bench: Bench, units: range) -> np.ndarray:
    player.open(prompts, _seeds(bench, units))
    player.play({"w"}, bench.config.warm_chunks)
    player.instruct([order for _, order, _, _ in given])
    return player.play({"w"}, bench.config.order_chunks)


def _strips(frames: np.ndarray) -> np.ndarray:
    """Frames spread evenly over the first few worlds' videos."""
    places = np.linspace(0, frames.shape[1] - 1, _STRIP_FRAMES).round().astype(int)
    return frames[:_STRIPS, places]


def _clip(bench: Bench, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames and operations (float32) of a real clip, whole chunks."""
    frames = bench.clips[index].frames(bench.size)
    num_chunks = len(frames) // FRAMES_PER_CHUNK
    operations = aligned_operations(bench.clips[index].clip, num_chunks).astype(np.float32)
    return frames[: num_chunks * FRAMES_PER_CHUNK], operations


@torch.inference_mode()
def _encoded(frames: np.ndarray, bench: Bench) -> torch.Tensor:
    """Latents `(chunks, C, h, w)` of whole chunks, as the autoencoder gives them."""
    return bench.model.vae.encode(from_pixels(torch.from_numpy(frames))[None].to(bench.model.device))[0]


def _normalised(latents: torch.Tensor, bench: Bench) -> np.ndarray:
    return bench.model.normalise(latents).half().cpu().numpy()


@torch.inference_mode()
def _compared(window: np.ndarray, drawn: np.ndarray, latents: torch.Tensor, bench: Bench) -> Arrays:
    """How near each method comes to the last chunk of a window, whose true latents are given."""
    vae = bench.model.vae
    truth, before = window[-FRAMES_PER_CHUNK:], window[-FRAMES_PER_CHUNK - 1]
    candidates = {
        "copy": np.repeat(before[None], FRAMES_PER_CHUNK, 0),
        "drawn": drawn,
        "streamed": chunk_pixels(vae.streaming(latents[-1:], latents[-2:-1]))[0].cpu().numpy(),
        "reconstructed": to_pixels(vae.decode(latents[None])[0, -FRAMES_PER_CHUNK:]).cpu().numpy(),
    }
    measures = {"psnr": fidelity.psnr_db, "ssim": fidelity.ssim}
    if bench.judges.lpips:
        measures["lpips"] = external.torchscript(bench.judges.lpips).distance
    return {
        f"{name} {method}": np.array(measure(candidate, truth))
        for name, measure in measures.items()
        for method, candidate in candidates.items()
    }

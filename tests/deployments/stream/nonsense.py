"""Messages that no client should send, made from ones that it may; the same seed makes the same ones."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from deployments.stream.wire import BinaryControl

CONTROL = {
    "type": "control",
    "timestamp": 1234.5,
    "keyboard": {"keys": ["w", "left"], "state": True},
    "camera": {"yaw_deg": 1.5, "pitch_deg": -2},
    "instruction": {"text": "make it rain", "blend_s": 1, "parameters": {}},
    "video_prompt": {"id": "5d3f"},
}
VALID: list[dict[str, Any]] = [
    CONTROL,
    {"type": "control", "timestamp": 1, "keyboard": {"keys": ["d"], "state": False}},
    {"type": "seen", "sequence": 41},
    {"type": "settings", "fps": 12, "every": 2},
    {"type": "settings", "format": "fmp4"},
    {"type": "settings", "format": "jpeg"},
    {"type": "ping", "timestamp": 99.5},
    {"type": "hello", "token": "guess", "protocol": 1},
]
BINARY = BinaryControl(keys=frozenset({"w", "left"}), yaw_deg=1.5, pitch_deg=-2, timestamp=1234.5).pack()
ODD_NUMBERS = (
    "NaN",
    "-Infinity",
    "1e400",
    "1e308",
    "-1",
    "0.1",
    "-0",
    "9" * 400,
    "9" * 5000,
    str(2**63),
    "1e-400",
)
ODD_VALUES = (
    "null",
    "true",
    '""',
    "[]",
    "{}",
    '"\\u0000"',
    '"\\ud83d\\ude00"',
    '"\\ud800"',
    "[[[[]]]]",
    '"x"',
)
OVER_THE_LIMIT = 9000


def nonsense(seed: int, count: int) -> Iterator[str | bytes]:
    """`count` messages, most of them wrong in one way or another; text that is not UTF-8 is none of them."""
    chance = random.Random(seed)
    kinds = (
        random_bytes,
        random_text,
        random_json,
        cut,
        flipped,
        odd_number,
        odd_value,
        renamed,
        deep,
        long,
        binary,
        valid,
    )
    for _ in range(count):
        yield chance.choice(kinds)(chance)


def valid(chance: random.Random) -> str:
    return json.dumps(chance.choice(VALID))


def random_bytes(chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice((0, 1, 21, 22, 23, 40, 300, OVER_THE_LIMIT)))


def random_text(chance: random.Random) -> str:
    ranges = ((0, 0x20), (0x20, 0x7F), (0x80, 0xD800), (0xE000, 0x110000))
    return "".join(chr(chance.randrange(*chance.choice(ranges))) for _ in range(chance.randrange(60)))


def random_json(chance: random.Random) -> str:
    return json.dumps(_value(chance, 4))


def _value(chance: random.Random, depth: int) -> Any:
    kind = chance.randrange(8 if depth else 6)
    if kind == 6:
        return [_value(chance, depth - 1) for _ in range(chance.randrange(4))]
    if kind == 7:
        names = ["type", "timestamp", "keyboard", "keys", "text", "\ud800", ""]
        return {chance.choice(names): _value(chance, depth - 1) for _ in range(chance.randrange(4))}
    return [
        None,
        True,
        chance.randrange(-(2**70), 2**70),
        chance.uniform(-1e9, 1e9),
        "control",
        float("nan"),
    ][kind]


def cut(chance: random.Random) -> str:
    text = valid(chance)
    return text[: chance.randrange(len(text))]


def flipped(chance: random.Random) -> str:
    text = list(valid(chance))
    for _ in range(chance.randrange(1, 4)):
        text[chance.randrange(len(text))] = chr(chance.randrange(32, 127))
    return "".join(text)


def odd_number(chance: random.Random) -> str:
    return _with_odd(chance, (int, float), ODD_NUMBERS)


def odd_value(chance: random.Random) -> str:
    return _with_odd(chance, object, ODD_VALUES + ODD_NUMBERS)


def _with_odd(chance: random.Random, kinds: Any, values: tuple[str, ...]) -> str:
    """A message with one of its values replaced by text that JSON writers would not write."""
    message = json.loads(valid(chance))
    places = [(part, name) for part in _objects(message) for name in part if isinstance(part[name], kinds)]
    part, name = chance.choice(places or [(message, "type")])
    part[name] = "<odd>"
    return json.dumps(message).replace('"<odd>"', chance.choice(values))


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from _objects(part)


def renamed(chance: random.Random) -> str:
    message = json.loads(valid(chance))
    part = chance.choice([*_objects(message)])
    if part:
        name = chance.choice([*part])
        part[chance.choice(("", "typ", "__class__", "x" * 500, name.upper()))] = part.pop(name)
    return json.dumps(message)


def deep(chance: random.Random) -> str:
    depth = chance.choice((50, 199, 201, 1500))
    inner = chance.choice(("[", '{"a":'))
    nested = inner * depth + "1" + ("]" if inner == "[" else "}") * chance.choice((depth, depth - 1, 0))
    return chance.choice((nested, json.dumps(CONTROL).replace("{}", nested)))


def long(chance: random.Random) -> str:
    """Over the limit, or nearly."""
    text = "very " * chance.choice((400, 1500, OVER_THE_LIMIT // 5))
    return json.dumps({**CONTROL, "instruction": {"text": text}})


def binary(chance: random.Random) -> bytes:
    message = bytearray(BINARY)
    for _ in range(chance.randrange(3)):
        message[chance.randrange(len(message))] = chance.choice((0, 1, 0x7F, 0x80, 0xC0, 0xFF))
    return bytes(message[: chance.choice((22, 22, 22, 21))])

"""Play as fragments of H.264, over a real Serve application."""

from __future__ import annotations

import asyncio
import io
import time
from typing import Any

import av
import cv2
import numpy as np
import pytest

from deployments.stream.wire import FRAGMENT_MAGIC, INIT_MAGIC, MAGIC, unpack_fragment, unpack_frame
from gamegen.media.fmp4 import split_init
from tests.serving import PATIENCE_S, Fragment, StreamClient, streaming

THIN = {"type": "settings", "format": "fmp4"}
RESOLUTION = {"width": 96, "height": 64}


def decoded(fragments: list[Fragment]) -> tuple[list[int], np.ndarray]:
    """What one init segment and some fragments show: time stamps in frames, and pixels."""
    init = split_init(fragments[0].file)[0]
    file = init + b"".join(split_init(fragment.file)[1] for fragment in fragments)
    with av.open(io.BytesIO(file)) as container:
        frames = list(container.decode(video=0))
    return [frame.pts for frame in frames], np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    """Of brightness: random weights draw coloured noise, whose colours neither format keeps at full resolution."""
    grey = [
        np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]) for frames in (one, other)
    ]
    return float(10 * np.log10(255**2 / np.mean((grey[0].astype(float) - grey[1]) ** 2)))


async def walk(player: StreamClient) -> None:
    await player.control(77.0, keyboard={"keys": ["w", "left"], "state": True})


async def dropped(client: Any, session: dict[str, Any], at_least: int) -> int:
    """Waits until the server has dropped so many frames of a session."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        state = (await asyncio.to_thread(client.get, f"/v1/sessions/{session['id']}")).json()
        if state["frames_dropped"] >= at_least:
            return state["frames_dropped"]
        assert time.monotonic() < give_up_at, state
        await asyncio.sleep(0.05)


async def test_fragments_show_what_frames_show(address, begin):
    session = begin(seed=5, resolution=RESOLUTION)
    async with streaming(address, session) as player:
        # Said before the world begins, so they hold from its first chunk on.
        await walk(player)
        await player.send(THIN)
        fragments = await player.fragments(8)
        assert (await player.message("settings"))["format"] == "fmp4"
        assert len(player.inits) == 1
    async with streaming(address, begin(seed=5, resolution=RESOLUTION)) as player:
        await walk(player)
        frames = await player.frames(32)
    times, pixels = decoded(fragments)
    assert times == list(range(32))
    assert psnr_db(pixels, np.stack([frame.pixels for frame in frames])) > 32
    headers = [header for fragment in fragments for header in fragment.headers]
    for header, frame in zip(headers, frames, strict=True):
        expected = frame.header
        for name in ("sequence", "chunk", "frame", "control_timestamp"):
            assert getattr(header, name) == getattr(expected, name), name
        assert header.step_ms > 0 and header.decode_ms > 0
    due_ms = [header.due_ms for header in headers]
    assert min(np.diff(due_ms)) > 0, "frames are due one after another, from fragment to fragment"


async def test_a_fragment_that_is_left_out_leaves_the_others_as_they_were(address, begin):
    async with streaming(address, begin(seed=6)) as player:
        await player.send(THIN)
        fragments = await player.fragments(5)
    _, whole = decoded(fragments)
    times, pixels = decoded(fragments[:2] + fragments[3:])
    kept = [i for i in range(20) if i // 4 != 2]
    assert times == kept
    np.testing.assert_array_equal(pixels, whole[kept])


async def test_the_format_changes_in_the_middle_of_a_session(address, begin):
    sequences: list[int] = []
    kinds: list[bytes] = []
    async with streaming(address, begin(seed=7)) as player:
        for wanted in ("jpeg", "fmp4", "jpeg", "fmp4"):
            await player.send({"type": "settings", "format": wanted})
            told = await player.message("settings")
            assert told == {"type": "settings", "fps": 24, "every": 1, "format": wanted}
            magic = MAGIC if wanted == "jpeg" else FRAGMENT_MAGIC
            after = 0
            # What was on its way comes as before.
            while after < 4:
                data = await player.binary()
                after += data.startswith(magic)
                kinds.append(data[:2])
                headers = [unpack_frame(data)[0]] if data.startswith(MAGIC) else []
                if data.startswith(FRAGMENT_MAGIC):
                    headers = unpack_fragment(data)[0]
                sequences += [header.sequence for header in headers]
                if headers:
                    await player.send({"type": "seen", "sequence": sequences[-1]})
    assert sequences[0] % 4 == 0
    assert len(set(sequences)) == len(sequences) and sequences == sorted(sequences)
    # Whoever asks again may have let go of its init segment.
    firsts = [i for i, kind in enumerate(kinds) if kind == FRAGMENT_MAGIC and kinds[i - 1] != FRAGMENT_MAGIC]
    assert len(firsts) == 2 and all(kinds[i - 1] == INIT_MAGIC for i in firsts)
    assert kinds.count(INIT_MAGIC) == 2


async def test_a_new_socket_asks_anew_and_gets_the_init_segment_again(address, begin):
    session = begin(seed=8)
    inits = []
    for _ in range(2):
        async with streaming(address, session) as player:
            assert (await player.binary()).startswith(MAGIC)
            await player.send(THIN)
            inits.append((await player.fragment(), player.inits))
    assert [len(told) for _, told in inits] == [1, 1]
    assert inits[0][1] == inits[1][1]
    times, _ = decoded([fragment for fragment, _ in inits])
    assert times == [header.sequence for fragment, _ in inits for header in fragment.headers]


async def test_each_nth_frame_has_no_meaning_for_fragments(address, begin):
    async with streaming(address, begin()) as player:
        await player.send({**THIN, "every": 4})
        fragments = await player.fragments(3)
        assert len(decoded(fragments)[0]) == 12
        assert (await player.message("settings"))["every"] == 4
        await player.send({"type": "settings", "format": "jpeg"})
        while not (data := await player.binary()).startswith(MAGIC):
            pass
        # Of frames it holds as it was said.
        assert unpack_frame(data)[0].sequence % 4 == 0


async def test_a_slow_reader_loses_whole_chunks(address, begin, client):
    session = begin()
    async with streaming(address, session, acknowledges=False) as player:
        await player.send(THIN)
        first = await player.fragments(1)
        # On a busy machine frames come before the format is heard of; the room that they take is needed below.
        if before := first[0].headers[0].sequence:
            await player.send({"type": "seen", "sequence": before - 1})
        first += await player.fragments(11)
        assert await dropped(client, session, 8) % 4 == 0
        await player.send({"type": "seen", "sequence": first[-1].headers[-1].sequence})
        later = await player.fragments(2)
        assert later[0].headers[0].sequence > first[-1].headers[-1].sequence + 4
        assert len(player.inits) == 1
    times, _ = decoded([*first, *later])
    assert times == [header.sequence for fragment in [*first, *later] for header in fragment.headers]
    assert len(times) == 56


@pytest.mark.parametrize("wrong", ["webm", "", 1, None, ["fmp4"]])
async def test_another_format_is_answered_and_changes_nothing(address, begin, wrong):
    async with streaming(address, begin()) as player:
        await player.send({"type": "settings", "format": wrong, "fps": 12})
        if wrong is None:
            assert (await player.message("settings"))["format"] == "jpeg"
            return
        assert "'jpeg' or 'fmp4'" in (await player.message("error"))["message"]
        assert (await player.binary()).startswith(MAGIC)

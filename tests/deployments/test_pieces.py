"""Serving parts that need no cluster: wire format, pacing, held keys, settings."""

from __future__ import annotations

import dataclasses

import pytest

from deployments import pacing
from deployments.app import local
from deployments.client_messages import ControlMessage, parse_client_message
from deployments.held_controls import MAX_PENDING_DEG, HeldControls
from deployments.settings import CLUSTER_SETTINGS, ServeSettings, WorldSettings, load_settings
from deployments.wire import (
    FRAGMENT_HEADER_BYTES,
    HEADER_BYTES,
    FrameHeader,
    pack_fragment,
    pack_init,
    unpack_fragment,
    unpack_frame,
    unpack_init,
)
from gamegen.controls import MAX_CAMERA_DEG
from tests.stopped_clock import StoppedClock


def control(**parts) -> ControlMessage:
    return ControlMessage.model_validate({"type": "control", "timestamp": 1.0, **parts})


@pytest.mark.parametrize("timestamp", [None, 1234567.25])
def test_frame_header_round_trip(timestamp):
    header = FrameHeader(3, 99, 24, timestamp, 41.5, 8.25, 12.5, 99.25)
    assert len(header.pack()) == HEADER_BYTES == 40
    assert unpack_frame(header.pack() + b"jpeg") == (header, b"jpeg")


def test_foreign_frames_are_refused():
    with pytest.raises(ValueError, match="at least 40 bytes"):
        unpack_frame(b"GG")
    with pytest.raises(ValueError, match="version 2"):
        unpack_frame(b"XX\x01" + bytes(40))


def test_fragment_round_trip():
    header = FrameHeader(0, 96, 24, 7.0, 41.5, 8.25, 12.5, 1000.0)
    message = pack_fragment(header, 62.5, b"moof")
    assert len(message) == FRAGMENT_HEADER_BYTES + 4 == 48
    headers, fragment = unpack_fragment(message)
    assert fragment == b"moof" and headers[0] == header
    assert [(h.frame, h.sequence) for h in headers] == [(0, 96), (1, 97), (2, 98), (3, 99)]
    assert [h.due_ms for h in headers] == [1000.0, 1062.5, 1125.0, 1187.5]
    assert unpack_init(pack_init(b"ftyp")) == b"ftyp"


def test_each_kind_of_binary_message_is_told_from_the_others():
    header = FrameHeader(0, 96, 24, None, 41.5, 8.25, 12.5, 1000.0)
    frame, fragment, init = (
        header.pack() + b"jpeg",
        pack_fragment(header, 40.0, b"moof"),
        pack_init(bytes(50)),
    )
    readers = {frame: unpack_frame, fragment: unpack_fragment, init: unpack_init}
    for message in readers:
        for own, reader in readers.items():
            if own != message:
                with pytest.raises(ValueError, match="it begins with"):
                    reader(message)
    with pytest.raises(ValueError, match="a fragment message has at least 44 bytes, got 43"):
        unpack_fragment(fragment[:43])
    with pytest.raises(ValueError, match="an init message has at least 4 bytes, got 2"):
        unpack_init(b"GI")


def test_keys_stay_down_until_released():
    held = HeldControls()
    held.apply(control(keyboard={"keys": ["w", "d"], "state": True}))
    assert held.take().keys == {"w", "d"}
    held.apply(control(keyboard={"keys": ["d"], "state": False}))
    assert held.take().keys == {"w"}


def test_a_tap_within_one_chunk_is_not_lost():
    held = HeldControls()
    held.apply(control(keyboard={"keys": ["space"], "state": True}))
    held.apply(control(keyboard={"keys": ["space"], "state": False}))
    assert held.take().keys == {"space"}
    assert held.take().keys == frozenset()


def test_camera_stays_until_changed():
    held = HeldControls()
    held.apply(control(camera={"yaw_deg": 2.0}))
    assert held.take().yaw_deg == held.take().yaw_deg == 2.0
    held.apply(control(camera={"yaw_deg": 0.0}))
    assert held.take().yaw_deg == 0.0


def turned_deg(held: HeldControls, num_chunks: int) -> list[tuple[float, float]]:
    """(yaw, pitch) of a frame in each of the next chunks."""
    return [held.take().camera_deg() for _ in range(num_chunks)]


def test_turns_add_up_and_are_spread_over_the_next_chunk():
    held = HeldControls()
    held.apply(control(turn={"yaw_deg": 10}))
    held.apply(control(turn={"yaw_deg": -2, "pitch_deg": 6}))
    assert turned_deg(held, 2) == [(2, 1.5), (0, 0)]


def test_a_turn_that_does_not_fit_goes_on_in_the_next_chunk():
    held = HeldControls()
    held.apply(control(turn={"yaw_deg": -60}))
    assert turned_deg(held, 4) == [(-MAX_CAMERA_DEG, 0), (-MAX_CAMERA_DEG, 0), (-3, 0), (0, 0)]


def test_a_turn_has_the_room_that_held_camera_and_arrow_keys_leave():
    held = HeldControls()
    held.apply(
        control(camera={"yaw_deg": 2}, keyboard={"keys": ["right"], "state": True}, turn={"yaw_deg": 16})
    )
    # 2 + 2.4 are held: 1.6 a frame are left, which takes two and a half chunks.
    yaws = [yaw for yaw, _ in turned_deg(held, 4)]
    assert yaws == pytest.approx([6, 6, 5.2, 4.4])
    held.apply(control(turn={"yaw_deg": -44}))
    assert [yaw for yaw, _ in turned_deg(held, 3)] == pytest.approx([-6, 3.8, 4.4])


def test_a_flick_does_not_turn_the_world_for_long():
    held = HeldControls()
    for _ in range(20):
        held.apply(control(turn={"yaw_deg": 360, "pitch_deg": -360}))
    turns = turned_deg(held, 10)
    assert 4 * sum(yaw for yaw, _ in turns) == pytest.approx(MAX_PENDING_DEG)
    assert 4 * sum(pitch for _, pitch in turns) == pytest.approx(-MAX_PENDING_DEG)
    assert turns[5] == (MAX_CAMERA_DEG, -MAX_CAMERA_DEG) and turns[6] == (0, 0)


@pytest.mark.parametrize(
    "turn, says",
    [
        ('{"yaw_deg": 400}', "turn.yaw_deg: 400 degrees and the limit is 360"),
        ('{"pitch_deg": -360.5}', "turn.pitch_deg: -360.5 degrees and the limit is 360"),
        ('{"yaw_deg": 1e999}', "turn.yaw_deg: .*finite"),
        ('{"pitch_deg": NaN}', "turn.pitch_deg: .*finite"),
        ('{"roll_deg": 1}', "turn.roll_deg"),
    ],
)
def test_a_turn_out_of_bounds_is_refused(turn, says):
    with pytest.raises(ValueError, match=says):
        parse_client_message(f'{{"type": "control", "timestamp": 1, "turn": {turn}}}', 1000)


@pytest.fixture
def clock(monkeypatch) -> StoppedClock:
    clock = StoppedClock()
    monkeypatch.setattr(pacing, "time", clock)
    return clock


def test_quick_model_is_shown_at_24_fps_and_waits_for_its_turn(clock):
    chunk = pacing.ChunkClock()
    chunk.stepped(0.05, is_typical=True)
    chunk.decoded(0.0, 0.05, [0.07] * 4)
    assert chunk.fps == pytest.approx(24)
    assert chunk.show() == (clock.now, pytest.approx(1 / 24))
    # The next chunk is due when this one has been shown, less the time it takes to make.
    assert chunk.step_delay_s() == pytest.approx(4 / 24 - 0.05 - 0.02)


def test_slow_model_is_spread_over_its_own_time_and_never_waits(clock):
    chunk = pacing.ChunkClock()
    chunk.stepped(0.4, is_typical=True)
    assert chunk.frame_interval_s == pytest.approx(0.1)
    chunk.show()
    clock.now += 0.1
    assert chunk.step_delay_s() == 0


def test_one_slow_chunk_does_not_set_the_pace(clock):
    chunk = pacing.ChunkClock()
    chunk.stepped(5.0, is_typical=False)
    assert chunk.fps == pytest.approx(24)


def test_late_is_what_is_shown_after_its_time_or_below_the_pace_that_was_asked_for(clock):
    quick, slow = pacing.ChunkClock(), pacing.ChunkClock()
    quick.stepped(0.05, is_typical=True)
    slow.stepped(0.18, is_typical=True)
    for chunk in (quick, slow):
        chunk.show()
    assert (quick.is_late, slow.is_late) == (False, True)
    slow.target_fps = 12
    clock.now += 0.18
    for chunk in (quick, slow):
        chunk.show()
    assert (quick.is_late, slow.is_late) == (False, False)
    clock.now += 0.25
    quick.show()
    # It was due 70 ms ago.
    assert quick.is_late


def test_a_chunk_is_begun_as_early_as_the_usual_one_needs(clock):
    steady, jumpy = pacing.ChunkClock(), pacing.ChunkClock()
    for i in range(101):
        for chunk, step_s in ((steady, 0.05 if i % 12 else 0.5), (jumpy, 0.07 if i % 2 else 0.05)):
            chunk.stepped(step_s, is_typical=True)
            chunk.decoded(0.0, step_s, [step_s + 0.02] * 4)
    assert steady.lead_s == pytest.approx(0.07)
    assert jumpy.lead_s == pytest.approx(0.08)
    assert jumpy.facts() == {"fps": 24.0, "step_ms": 60.0, "decode_ms": 20.0, "lead_ms": 80.0}


def test_a_slow_step_and_a_quick_decoding_even_out(clock):
    chunk = pacing.ChunkClock()
    for step_s, decode_s in ((0.05, 0.03), (0.06, 0.02), (0.07, 0.01)):
        chunk.decoded(10.0, 10.0 + step_s, [10.0 + step_s + decode_s] * 4)
    assert chunk.lead_s == pytest.approx(0.08)


def test_a_chunk_that_is_not_typical_sets_no_lead(clock):
    chunk = pacing.ChunkClock()
    chunk.decoded(0.0, 0.05, [0.07] * 4)
    chunk.decoded(0.0, 1.05, [1.07] * 4, is_typical=False)
    assert chunk.lead_s == pytest.approx(0.07)


def test_frames_that_are_shown_later_may_come_later(clock):
    chunk = pacing.ChunkClock()
    chunk.decoded(0.0, 0.05, [0.07, 0.1, 0.1, 0.1])
    assert chunk.lead_s == pytest.approx(0.07)
    chunk.decoded(0.0, 0.05, [0.07, 0.14, 0.14, 0.14])
    assert chunk.leads_s[-1] == pytest.approx(0.14 - 1 / 24)


def test_a_chunk_that_comes_a_little_late_moves_nothing(clock):
    """The page waits for such chunks; were each to move those after it, nothing would be on time."""
    chunk = pacing.ChunkClock()
    began, _ = chunk.show()
    clock.now += 4 / 24 + 0.02
    start, interval_s = chunk.show()
    assert start == pytest.approx(began + 4 / 24) and interval_s == pytest.approx(1 / 24)
    assert chunk.due_s == start and chunk.late_s == pytest.approx(0.02) and not chunk.is_late


def test_what_a_late_chunk_cost_is_made_up_for_little_by_little(clock):
    chunk = pacing.ChunkClock()
    began, _ = chunk.show()
    clock.now += 4 / 24 + 0.05
    start, interval_s = chunk.show()
    assert start == clock.now and interval_s == pytest.approx(0.96 / 24)
    for _ in range(10):
        clock.now = chunk.shown_until_s
        start, interval_s = chunk.show()
    assert start == pytest.approx(began + 11 * 4 / 24) and interval_s == pytest.approx(1 / 24)
    # A stop is not made up for.
    clock.now += 2
    assert chunk.show() == (clock.now, pytest.approx(1 / 24))


def test_message_over_the_limit_names_both_sizes():
    with pytest.raises(ValueError, match=r"40 bytes and the limit is 20"):
        parse_client_message('{"type":"seen","sequence":1}' + " " * 12, 20)


def test_shipped_settings_load_and_nonsense_is_refused():
    settings = load_settings()
    assert settings.world.slots >= settings.ingress.max_sessions
    shares = [settings.ingress, settings.text_encoder, settings.world, settings.decoder, settings.generator]
    assert sum(part.num_cpus for part in shares) <= 1
    with pytest.raises(ValueError, match=r"WorldSettings\.slots = 0"):
        dataclasses.replace(settings.world, slots=0)
    with pytest.raises(ValueError, match=r"most_late_share = 5: use a share"):
        dataclasses.replace(settings.world, most_late_share=5)
    with pytest.raises(ValueError, match="raise the slots"):
        ServeSettings(world=WorldSettings(slots=1))


def test_the_cluster_settings_put_one_of_each_kind_that_plays_on_each_of_two_nodes():
    settings = load_settings(CLUSTER_SETTINGS)
    assert settings.max_replicas_per_node == 1
    parts = (settings.ingress, settings.text_encoder, settings.world, settings.decoder)
    assert [part.replicas for part in parts] == [2, 2, 2, 2]
    # Clips take a hundredth.
    assert sum(part.num_cpus for part in (*parts, settings.generator)) <= 0.99
    # Either replica carries everybody.
    assert settings.world.slots >= settings.ingress.max_sessions


def test_the_application_builder_says_what_it_takes(monkeypatch, database_url, tmp_path):
    with pytest.raises(ValueError, match="REDIS_URL is not set: name the Valkey or Redis"):
        local({})
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    with pytest.raises(ValueError, match="DATABASE_URL is not set: name the PostgreSQL"):
        local({})
    monkeypatch.setenv("DATABASE_URL", database_url)
    with pytest.raises(ValueError, match="OBJECT_STORE_URL is not set"):
        local({})
    monkeypatch.setenv("OBJECT_STORE_URL", str(tmp_path))
    with pytest.raises(ValueError, match=r"'model'.*settings=FILE"):
        local({"model": "nano"})
    assert local({"settings": str(CLUSTER_SETTINGS)})

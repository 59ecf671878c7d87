"""The page on a thin link: fragments of H.264 where the browser decodes them, pictures where it does not."""

from __future__ import annotations

import base64
import itertools

import numpy as np
import pytest

from deployments.stream.wire import FRAGMENT_MAGIC, INIT_MAGIC, MAGIC
from gamegen.media.fmp4 import CODEC, encode_chunk, split_init
from gamegen.media.images import encode_jpegs
from tests.e2e.playing import CHROMIUM, wait_for_frames

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

WITHOUT_DECODER = "delete window.VideoDecoder;"
WITHOUT_H264 = "VideoDecoder.isConfigSupported = async (config) => ({ supported: false, config });"
DECODER_THAT_FAILS = """
window.VideoDecoder = class {
  static isConfigSupported = async (config) => ({ supported: true, config });
  constructor({ error }) { this.state = "unconfigured"; this.error = error; }
  configure() { this.state = "configured"; }
  decode() { this.close(); this.error(new Error("as the test wants it")); }
  async flush() {}
  close() { this.state = "closed"; }
};
"""
CHOSEN_BEFORE = "localStorage.setItem('gamegen-thin-link', 'on');"
COLOURS = [
    (255, 255, 255),
    (0, 0, 0),
    (220, 40, 30),
    (40, 200, 60),
    (30, 60, 230),
    (128, 128, 128),
    (240, 200, 40),
]


@pytest.fixture
def has_h264(browser) -> None:
    """Some builds of Chromium decode no H.264; what they show is tested below."""
    page = browser.new_page()
    can_play = page.evaluate("type => MediaSource.isTypeSupported(type)", f'video/mp4; codecs="{CODEC}"')
    page.close()
    if not can_play:
        pytest.skip("this Chromium decodes no H.264")


def kinds(page) -> list[bytes]:
    """The magic of each binary message that the page got since it was last forgotten."""
    return [base64.b64decode(message)[:2] for message in page.evaluate("window.recorded")]


def wait_for_kind(page, magic: bytes) -> None:
    beginning = base64.b64encode(magic + b"\x00").decode()[:2]
    page.wait_for_function("text => window.recorded.some(message => message.startsWith(text))", arg=beginning)


def test_the_switch_changes_what_is_sent_and_back(page, has_h264):
    field = page.get_by_test_id("thin-field")
    field.wait_for(state="visible")
    page.get_by_test_id("thin").check()
    wait_for_kind(page, FRAGMENT_MAGIC)
    page.evaluate("window.recorded = []")
    wait_for_frames(page, 48)
    assert set(kinds(page)) == {FRAGMENT_MAGIC}
    page.wait_for_function("document.getElementById('rate').textContent.endsWith('kB/s')")
    assert page.evaluate("gamegen.fps") > 0 and page.evaluate("gamegen.stepMs") > 0
    # Keys are answered as before.
    page.get_by_test_id("screen").focus()
    page.keyboard.down("w")
    page.wait_for_function("gamegen.latencyMs !== null")
    page.keyboard.up("w")
    page.get_by_test_id("thin").uncheck()
    page.evaluate("window.recorded = []")
    wait_for_kind(page, MAGIC)
    wait_for_frames(page, 24)
    assert page.get_by_test_id("banner").is_hidden()


def test_the_choice_outlives_a_dropped_socket_and_a_reload(page, has_h264):
    page.get_by_test_id("thin").check()
    wait_for_kind(page, FRAGMENT_MAGIC)
    for drop in ("window.sockets.at(-1).close(); window.recorded = []", "location.reload()"):
        page.evaluate(drop)
        wait_for_kind(page, INIT_MAGIC)
        wait_for_kind(page, FRAGMENT_MAGIC)
        wait_for_frames(page, 24)
    assert page.get_by_test_id("thin").is_checked()


@pytest.mark.parametrize("script", [WITHOUT_DECODER, WITHOUT_H264], ids=["no decoder", "no H.264"])
def test_a_browser_that_cannot_is_not_offered_it_and_plays(open_page, script):
    page = open_page(script + CHOSEN_BEFORE)
    wait_for_frames(page, 12)
    assert page.get_by_test_id("thin-field").is_hidden()
    assert set(kinds(page)) == {MAGIC}
    assert [message for message in page.evaluate("window.sent") if message["type"] == "settings"] == []


def test_a_decoder_that_fails_is_given_up_and_the_world_goes_on(open_page):
    page = open_page(DECODER_THAT_FAILS)
    # Not check(): the page takes the choice back as soon as the decoder fails.
    page.get_by_test_id("thin").click()
    page.get_by_test_id("banner").wait_for(state="visible")
    assert "gets pictures again" in page.get_by_test_id("banner").inner_text()
    assert page.get_by_test_id("thin-field").is_hidden()
    wait_for_frames(page, 24)
    formats = [message["format"] for message in page.evaluate("window.sent") if message["type"] == "settings"]
    assert formats == ["fmp4", "jpeg"]


def colour_bars() -> np.ndarray:
    frames = np.zeros((4, 48, 16 * len(COLOURS), 3), np.uint8)
    for i, colour in enumerate(COLOURS):
        frames[:, :, 16 * i : 16 * (i + 1)] = colour
    return frames


def test_colours_are_those_of_the_pictures(page, has_h264):
    bars = colour_bars()
    init, fragment = (base64.b64encode(part).decode() for part in split_init(encode_chunk(bars, 0)))
    jpeg = base64.b64encode(encode_jpegs(bars)[0]).decode()
    both = page.evaluate(
        """async ([init, fragment, jpeg]) => {
          const { FragmentDecoder } = await import("/static/fragments.js");
          const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
          const colours = (picture, width, height) => {
            const canvas = new OffscreenCanvas(width, height);
            const context = canvas.getContext("2d");
            context.drawImage(picture, 0, 0);
            const middles = Array.from({ length: width / 16 }, (_, i) => 16 * i + 8);
            return middles.map((x) => [...context.getImageData(x, height / 2, 1, 1).data].slice(0, 3));
          };
          const frames = [0, 1, 2, 3].map((sequence) => ({ sequence }));
          const shown = await new Promise((resolve, reject) => {
            const pictures = [];
            const decoder = new FragmentDecoder((frame) => {
              pictures.push(frame);
              if (pictures.length === 4) resolve(pictures);
            }, reject);
            decoder.begin(bytes(init));
            decoder.push(frames, bytes(fragment));
          });
          const { displayWidth, displayHeight } = shown[0].picture;
          const still = await createImageBitmap(new Blob([bytes(jpeg)], { type: "image/jpeg" }));
          return {
            order: shown.map((frame) => frame.sequence),
            moving: shown.map((frame) => colours(frame.picture, displayWidth, displayHeight)),
            still: colours(still, still.width, still.height),
          };
        }""",
        [init, fragment, jpeg],
    )
    assert both["order"] == [0, 1, 2, 3]
    for moving in both["moving"]:
        assert np.abs(np.array(moving) - both["still"]).max() <= 8, (moving, both["still"])


def test_media_source_extensions_play_fragments_without_a_gap(page, has_h264):
    frames = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), np.uint8)
    parts = [split_init(encode_chunk(frames, 4 * number)) for number in range(9)]
    chosen = [parts[0][0], *(part for number, (_, part) in enumerate(parts) if number != 6)]
    ranges = page.evaluate(
        """async ([codec, parts]) => {
          const video = document.createElement("video");
          const source = new MediaSource();
          video.src = URL.createObjectURL(source);
          await new Promise((resolve) => { source.onsourceopen = resolve; });
          const buffer = source.addSourceBuffer(`video/mp4; codecs="${codec}"`);
          for (const part of parts) {
            buffer.appendBuffer(Uint8Array.from(atob(part), (letter) => letter.charCodeAt(0)));
            await new Promise((resolve, reject) => { buffer.onupdateend = resolve; buffer.onerror = reject; });
          }
          const { buffered } = buffer;
          return Array.from({ length: buffered.length }, (_, i) => [buffered.start(i), buffered.end(i)]);
        }""",
        [CODEC, [base64.b64encode(part).decode() for part in chosen]],
    )
    # A chunk that was dropped is a gap, and its sequence says where.
    assert [value * 24 for value in itertools.chain(*ranges)] == pytest.approx([0, 24, 28, 36], abs=0.01)

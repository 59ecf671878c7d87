"""`gamegen verify`: checks a clip's signed manifest and prints its statements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from gamegen.provenance.verification import Verification

_COLOURS = {"valid": "green", "invalid": "red", "absent": "yellow"}
_MAX_SHOWN = 1000
"""Characters of anything that the file says."""


def verify(
    clip: Annotated[Path, typer.Argument(help="an MP4 file")],
    anchors: Annotated[
        Path | None,
        typer.Option(
            help="PEM certificates to trust; by default $GAMEGEN_C2PA_ANCHORS or whoever signs here"
        ),
    ] = None,
) -> None:
    """Checks who made a clip and whether it was changed since. Exit status 0: valid, 1: invalid or not signed.

    Example: gamegen verify clip.mp4
    """
    from gamegen.provenance.certificates import read_anchors, trusted_anchors
    from gamegen.provenance.verification import ProvenanceState, verify_mp4

    trusted = read_anchors(anchors.read_text(), str(anchors)) if anchors else trusted_anchors()
    found = verify_mp4(clip, trusted)
    Console().print(_table(clip, found))
    if found.state is not ProvenanceState.VALID:
        raise typer.Exit(1)


def _table(clip: Path, found: Verification) -> Table:
    """Table of the verification; text from the file is shown plain, since it could hold markup."""
    table = Table("", "", title=Text(clip.name), show_header=False)
    table.add_row("state", Text(found.state, style=_COLOURS[found.state]))
    rows = [
        ("error", "\n".join(found.errors)),
        ("signer", found.signer),
        ("issued by", found.issuer),
        ("made", f"{found.when:%Y-%m-%d %H:%M:%S %Z}" if found.when else None),
        ("with", found.generator),
        ("model", found.model),
        ("order", found.content_hash),
        (
            "actions",
            "\n".join(" ".join(filter(None, (a.name, a.source_type, a.agent))) for a in found.actions),
        ),
    ]
    for name, value in rows:
        if value:
            table.add_row(name, Text(_printable(str(value))))
    return table


def _printable(text: str) -> str:
    """Text without control characters, shortened to the width of a terminal."""
    shown = "".join(character if character.isprintable() or character == "\n" else "?" for character in text)
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."

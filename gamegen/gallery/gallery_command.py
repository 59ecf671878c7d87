"""The command `gamegen gallery`: builds the recorded moments that worlds begin from, and shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

gallery = typer.Typer(no_args_is_help=True, help="Keeps recorded moments for worlds to begin from.")


@gallery.command()
def build(
    data: Annotated[Path, typer.Argument(help="encoded shards; clips of training worlds alone are used")],
    curated: Annotated[Path, typer.Option(help="the curated shards that were encoded, for the pictures")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="folder, gallery in the checkpoint's: runs/world/gallery")
    ],
    starts: Annotated[int, typer.Option(help="how many at most, up to 1000")] = 1000,
    model: Annotated[
        str, typer.Option(help="a shipped model or a checkpoint folder: it encoded the clips")
    ] = "nano",
) -> None:
    """Chooses moments of encoded clips, spread over their worlds, and writes them for worlds to begin from.

    Example: gamegen gallery build data/encoded --curated data/curated --output runs/world/gallery --model runs/world
    """
    from gamegen.gallery.build import build_gallery
    from gamegen.gallery.gallery import GALLERY_FILE
    from gamegen.models.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(model)
    built = build_gallery(data, curated, checkpoint.model, checkpoint.card, starts)
    built.save(output)
    size_mb = (output / GALLERY_FILE).stat().st_size / 1e6
    card = built.card
    print(
        f"{output}: {len(built.entries)} starts of {card['clips']} clips in {card['worlds']} worlds, {size_mb:.1f} MB"
    )


@gallery.command()
def merge(
    kept: Annotated[Path, typer.Argument(help="a gallery's folder; its probes stay")],
    added: Annotated[
        Path, typer.Argument(help="another gallery's folder, of the same model and other clips")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder to write the gallery to")],
    starts: Annotated[int, typer.Option(help="how many at most, up to 1000")] = 1000,
) -> None:
    """Puts two galleries together: of scenes that both have many of, starts that look alike give way.

    Example: gamegen gallery merge runs/world/gallery runs/more --output runs/both
    """
    from gamegen.gallery.gallery import Gallery
    from gamegen.gallery.merge import merge_galleries

    merged = merge_galleries(Gallery.load(kept), Gallery.load(added), starts)
    merged.save(output)
    scenes = len({(*entry.scene.values(), entry.perspective) for entry in merged.entries})
    print(f"{output}: {len(merged.entries)} starts of {scenes} scenes")


@gallery.command()
def sheet(
    output: Annotated[Path, typer.Option("--output", "-o", help="the .png file to write")],
    folder: Annotated[
        Path | None, typer.Option(help="a gallery's folder, by default the shipped one")
    ] = None,
    columns: Annotated[int, typer.Option(help="pictures side by side")] = 10,
) -> None:
    """Draws all starts of a gallery on one contact sheet, each with its caption.

    Example: gamegen gallery sheet --output sheet.png
    """
    import io

    import numpy as np
    from PIL import Image

    from gamegen.curation.contact_sheet import draw_sheet
    from gamegen.gallery.gallery import GALLERY_FOLDER, Gallery
    from gamegen.models.checkpoint import WEIGHTS_FOLDER

    if output.suffix != ".png":
        raise ValueError(f"cannot write {output}: end it in .png")
    shown = Gallery.load(folder or WEIGHTS_FOLDER / GALLERY_FOLDER)
    tiles = []
    for entry, picture in zip(shown.entries, shown.pictures, strict=True):
        half = len(entry.caption) // 2
        cut = entry.caption.find(" ", half)
        label = entry.caption if cut < 0 else f"{entry.caption[:cut]}\n{entry.caption[cut + 1 :]}"
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        # Twice the size, so that captions fit below.
        tiles.append((np.asarray(image.resize((2 * image.width, 2 * image.height))), label))
    draw_sheet(tiles, min(columns, len(tiles))).save(output)
    print(f"{output}: {len(tiles)} starts")

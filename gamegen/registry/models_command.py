"""The command `gamegen models`: lists, stores, promotes and fetches versions of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from gamegen.registry.registry import Registry

models = typer.Typer(no_args_is_help=True, help="Keeps versions of checkpoints, and says which is current.")

Store = Annotated[
    str | None,
    typer.Option(
        envvar="OBJECT_STORE_URL", help="s3://bucket/prefix or a folder; by default a folder of yours"
    ),
]
Name = Annotated[str, typer.Argument(help="the model's name")]
VersionNumber = Annotated[int | None, typer.Option(help="the current one by default")]


@models.command("list")
def list_models(store: Store = None) -> None:
    """Lists every model with its versions.

    Example: gamegen models list --store s3://worlds/models
    """
    registry = _open(store)
    names = registry.names()
    if not names:
        print(f"no models in {registry.store}; store one with gamegen models add NAME FOLDER")
        return
    table = Table("model", "version", "current", "added", "MiB", "stages", "evaluated")
    for name in names:
        history = registry.history(name)
        current = history[-1].version if history else None
        for version in registry.versions(name):
            table.add_row(
                name,
                str(version.number),
                "yes" if version.number == current else "",
                version.added_at,
                f"{version.size_bytes / 2**20:.1f}",
                ", ".join(version.stages),
                "yes" if version.figures else "no",
            )
    Console().print(table)


@models.command()
def show(
    name: Name,
    version: VersionNumber = None,
    store: Store = None,
) -> None:
    """Shows one version, its figures beside the current one's, and the model's history.

    Example: gamegen models show nano --version 3
    """
    registry = _open(store)
    history = registry.history(name)
    shown = registry.version(name, version)
    current = registry.version(name) if history else None
    facts = Table("", "", title=f"{name} version {shown.number}")
    for fact, value in (
        ("added", shown.added_at),
        ("size", f"{shown.size_bytes / 2**20:.1f} MiB"),
        ("SHA-256 of the weights", shown.sha256),
        ("stages", ", ".join(shown.stages)),
    ):
        facts.add_row(fact, value)
    Console().print(facts)
    figures = Table("figure", "this", "current")
    for figure in sorted(set(shown.figures) | set(current.figures if current else {})):
        values = [f"{v.figures[figure]:.3f}" if v and figure in v.figures else "-" for v in (shown, current)]
        figures.add_row(figure, *values)
    Console().print(figures)
    changes = Table("when", "what", "version", "better on")
    for change in history:
        changes.add_row(change.at, change.action, str(change.version), "\n".join(change.better))
    Console().print(changes)


@models.command()
def add(
    name: Name,
    checkpoint: Annotated[str, typer.Argument(help="a checkpoint folder or a shipped model")],
    report: Annotated[Path | None, typer.Option(help="its report.json from gamegen evaluate")] = None,
    store: Store = None,
) -> None:
    """Stores a checkpoint as the next version of a model.

    Example: gamegen models add mine runs/world --report evaluation/report.json
    """
    version = _open(store).add(name, Path(checkpoint), report)
    print(f"{name} version {version.number}: {version.size_bytes / 2**20:.1f} MiB stored")


@models.command()
def promote(
    name: Name, version: Annotated[int, typer.Argument(help="its number")], store: Store = None
) -> None:
    """Makes a version current, if its evaluation beats the current one's: better somewhere, worse nowhere.

    Example: gamegen models promote mine 3
    """
    comparison = _open(store).promote(name, version)
    print(f"{name} version {version} is current now. Better on:")
    for sentence in comparison.better:
        print(f"  {sentence}")


@models.command()
def rollback(name: Name, store: Store = None) -> None:
    """Makes the version current again that was so before.

    Example: gamegen models rollback mine
    """
    print(f"{name} version {_open(store).rollback(name)} is current again")


@models.command()
def fetch(
    name: Name,
    target: Annotated[Path, typer.Argument(help="folder to write; it must not exist")],
    version: VersionNumber = None,
    store: Store = None,
) -> None:
    """Writes a version as a checkpoint folder, ready for --model.

    Example: gamegen models fetch mine runs/served && gamegen play --model runs/served
    """
    fetched = _open(store).fetch(name, version, target)
    print(f"{name} version {fetched.number} is in {target}")


@models.command()
def adopt(
    folder: Annotated[Path, typer.Argument(help="a checkpoint folder that was converted on purpose")],
) -> None:
    """Renews the card of a checkpoint whose weights or config were changed, if they fit each other.

    Converted types stay as they are, names lose what DistributedDataParallel and torch.compile put into them, shards
    become one file.
    Example: gamegen models adopt runs/converted
    """
    from gamegen.models.adoption import adopt as adopt_checkpoint

    adopted = adopt_checkpoint(folder)
    changes = f", rewritten: {', '.join(adopted.rewritten)}" if adopted.rewritten else ""
    print(f"{folder}: {adopted.num_weights:,} weights in {', '.join(adopted.dtypes)} fit the config{changes}")


@models.command()
def sizes() -> None:
    """Prints how large the named configs are and how much they compute.

    Example: gamegen models sizes
    """
    from gamegen.models.sizes import sizes_table

    Console().print(sizes_table())


def _open(url: str | None) -> Registry:
    # Here and not above: PyTorch and boto3 take seconds to import, and `gamegen --help` needs neither.
    from gamegen.registry.registry import Registry
    from gamegen.storage.encryption import open_store

    return Registry(open_store(url))

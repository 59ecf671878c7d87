"""The command `gamegen storage`: rotates the key of the object store and of the webhook secrets."""

from __future__ import annotations

from typing import Annotated

import typer

storage = typer.Typer(no_args_is_help=True, help="Seals the object store with another key.")


@storage.command()
def rotate(
    store: Annotated[
        str | None,
        typer.Argument(
            envvar="OBJECT_STORE_URL", help="s3://bucket/prefix or a folder; by default a folder of yours"
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            help="whose webhook secrets are sealed anew; by default $DATABASE_URL or the embedded one"
        ),
    ] = None,
    objects_only: Annotated[
        bool, typer.Option("--objects-only", help="leave the database alone, for a backup's folder")
    ] = False,
) -> None:
    """Seals everything with the key of $GAMEGEN_STORE_KEY, also what was stored in the clear. Run it again if it stops.

    $GAMEGEN_STORE_OLD_KEYS holds the keys before it, separated by commas; afterwards nothing needs them.

    Example: GAMEGEN_STORE_OLD_KEYS=$GAMEGEN_STORE_KEY GAMEGEN_STORE_KEY=$NEW gamegen storage rotate
    """
    import asyncio

    from rich.console import Console

    from gamegen.service.database.embedded import reachable_database
    from gamegen.service.database.schema import check_newest
    from gamegen.service.webhooks.signing import reseal_secrets
    from gamegen.storage.encryption import EncryptedStore, open_store
    from gamegen.storage.rotation import rotate_keys
    from gamegen.storage.store_keys import KEY_VARIABLE

    opened = open_store(store)
    if not isinstance(opened, EncryptedStore):
        raise ValueError(
            f"{KEY_VARIABLE} is not set: set it to the key to seal with (openssl rand -base64 32)"
        )
    with Console(stderr=True).status("") as status:
        done = rotate_keys(opened, lambda number: status.update(f"{number} objects"))
    print(
        f"{opened.inner}: {done.resealed} objects sealed anew, {done.newly_sealed} sealed for the first time, "
        f"{done.unchanged} as they should be"
    )
    if not objects_only:
        with reachable_database(database) as url:
            check_newest(url)
            count = asyncio.run(reseal_secrets(url))
        print(f"{count} webhook secrets sealed anew")

"""What orders cost, and the ledger: every change of a balance is a row of it.

What an order costs is reserved when it is accepted, and settled, or paid back in part or whole, when it ends.
"""

from __future__ import annotations

import math

from sqlalchemy import select, text

from gamegen.database.patience import Turn
from gamegen.database.tables import accounts
from gamegen.videos.order import Order
from gamegen.videos.tiers import TierConfig

MILLICREDITS = 1000
"""In a credit."""

OPENED = """
opened as (
    insert into accounts (id, balance_millicredits)
    select distinct unnest(cast(:accounts as text[])) as id, cast(:granted as bigint) order by id
    on conflict (id) do nothing
    returning id
), granted as (
    insert into credits_ledger (account, kind, millicredits)
    select id, 'grant', cast(:granted as bigint) from opened
)"""
"""A part of a statement: makes the accounts that are not there, with what new ones are given."""

SETTLED = """
settled as (
    insert into credits_ledger (account, generation_id, kind, millicredits)
    select account, id, 'refund', refund from moved where finished_at is not null and refund > 0
    union all
    select account, id, 'settle', 0 from moved where finished_at is not null and millicredits > 0
    returning account, millicredits
), owed as (
    select a.id, s.millicredits
    from accounts a
    join (
        select account, sum(millicredits) as millicredits from settled where millicredits > 0 group by account
    ) s on s.account = a.id
    order by a.id for no key update of a
), paid as (
    update accounts a set balance_millicredits = a.balance_millicredits + owed.millicredits
    from owed where a.id = owed.id
)"""
"""A part of a statement: settles rows of `moved` (id, account, finished_at, refund, millicredits) that have ended."""

_OPEN = text(f"with {OPENED} select 1")
_GRANT = text(
    """
    with entry as (
        insert into credits_ledger (account, generation_id, kind, millicredits)
        values (:account, :reference, 'grant', :millicredits)
        on conflict (generation_id, kind) do nothing
        returning millicredits
    )
    update accounts set balance_millicredits = balance_millicredits + (select sum(millicredits) from entry)
    where id = :account and exists (select from entry)
    """
)


def cost(order: Order, tier: TierConfig) -> int:
    """Millicredits: frames times megapixels times steps times what the tier costs, rounded up."""
    megapixels = order.width * order.height / 1e6
    return math.ceil(order.num_frames * megapixels * order.num_steps * tier.credit_multiplier)


async def open_accounts(turn: Turn, names: list[str], new_account_credits: int) -> None:
    """Makes those that are not there."""
    await turn.connection.execute(_OPEN, {"accounts": names, "granted": new_account_credits * MILLICREDITS})


async def balance(turn: Turn, account: str, new_account_credits: int) -> int:
    """Millicredits that an account can spend."""
    rows = await turn.rows(select(accounts.c.balance_millicredits).where(accounts.c.id == account))
    return rows[0].balance_millicredits if rows else new_account_credits * MILLICREDITS


async def grant(turn: Turn, account: str, millicredits: int, new_account_credits: int, reference: str) -> int:
    """Gives an account millicredits, once for each `reference`; what it has then."""
    if millicredits < 1:
        raise ValueError(f"millicredits = {millicredits}: grant at least one")
    await open_accounts(turn, [account], new_account_credits)
    await turn.connection.execute(
        _GRANT, {"account": account, "millicredits": millicredits, "reference": f"grant:{reference}"}
    )
    return await balance(turn, account, new_account_credits)

"""Prices of orders, balances of accounts, and the ledger, which has a row for every change of a balance.

The price of an order is reserved when it is accepted; when it ends, it is settled, and refunded in part or whole.
"""

from __future__ import annotations

import math

from sqlalchemy import select

from gamegen.service.database.retrying import Attempt
from gamegen.service.database.tables import accounts
from gamegen.service.orders.order import Order
from gamegen.service.orders.statements import statement
from gamegen.service.orders.tiers import TierConfig

MILLICREDITS = 1000
"""Millicredits in a credit."""
_OPEN_ACCOUNTS = statement("open_accounts")
_GRANT = statement("grant")


def cost(order: Order, tier: TierConfig) -> int:
    """Price in millicredits: the order's work times the tier's multiplier, rounded up."""
    return math.ceil(order.work * tier.credit_multiplier)


async def open_accounts(attempt: Attempt, names: list[str], new_account_credits: int) -> None:
    """Makes the accounts that do not exist, each with `new_account_credits`."""
    await attempt.connection.execute(
        _OPEN_ACCOUNTS, {"accounts": names, "granted": new_account_credits * MILLICREDITS}
    )


async def balance(attempt: Attempt, account: str, new_account_credits: int) -> int:
    """Millicredits that an account can spend; one that does not exist has those of a new one."""
    rows = await attempt.rows(select(accounts.c.balance_millicredits).where(accounts.c.id == account))
    return rows[0].balance_millicredits if rows else new_account_credits * MILLICREDITS


async def grant(
    attempt: Attempt, account: str, millicredits: int, new_account_credits: int, reference: str
) -> int:
    """Adds millicredits to an account, once for each `reference`; returns its balance."""
    if millicredits < 1:
        raise ValueError(f"millicredits = {millicredits}: must be at least 1")
    await open_accounts(attempt, [account], new_account_credits)
    await attempt.connection.execute(
        _GRANT, {"account": account, "millicredits": millicredits, "reference": f"grant:{reference}"}
    )
    return await balance(attempt, account, new_account_credits)

-- Makes accounts that do not exist, each with the credits of a new one.
with opened as (
    insert into accounts (id, balance_millicredits)
    select distinct unnest(cast(:accounts as text[])) as id, cast(:granted as bigint) order by id
    on conflict (id) do nothing
    returning id
), granted as (
    insert into credits_ledger (account, kind, millicredits)
    select id, 'grant', cast(:granted as bigint) from opened
) select 1

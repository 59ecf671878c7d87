-- Tiers that have work, the one of least virtual time (column "pass") first.
-- A tier without work moves along with the others: it earns no claim to work that it did not ask for.
with heads as (
    select s.name, coalesce(t.pass, 0) as pass, exists (
        select from generations
        where state = 'QUEUED' and worker is null and tier = s.name and available_at <= now()
    ) as is_waiting
    from unnest(cast(:tiers as text[])) as s(name) left join tiers t on t.name = s.name
), floor as (
    select min(pass) as pass from heads where is_waiting
), lifted as (
    insert into tiers (name, pass)
    select heads.name, floor.pass from heads, floor
    where not heads.is_waiting and heads.pass < floor.pass
    order by heads.name
    on conflict (name) do update set pass = greatest(tiers.pass, excluded.pass)
)
select name from heads where is_waiting order by pass, name

-- Claims QUEUED orders of one tier and one batch key, and adds their work to the tier's virtual time.
with head as (
    select id, batch_key from generations where state = 'QUEUED' and worker is null and tier = :tier and available_at <= now()
    order by rank limit 1 for update skip locked
), mates as (
    select g.id from generations g, head
    where state = 'QUEUED' and worker is null and tier = :tier and available_at <= now() and g.batch_key = head.batch_key and g.id <> head.id
    order by rank limit :limit - 1 for update of g skip locked
), picked as (
    select id from head union all select id from mates
), changed as (
    update generations g set
        state = :state,
        worker = :worker,
        lease_until = now() + make_interval(secs => :lease_s),
        fence = g.fence + 1,
        attempts = g.attempts + 1,
        started_at = coalesce(g.started_at, now()),
        step = coalesce(c.step, 0)
    from picked p left join lateral (
        select step, key from checkpoints where generation_id = p.id order by fence desc, step desc limit 1
    ) c on true
    where g.id = p.id
    returning g.*, c.key as checkpoint_key, c.step as checkpoint_step,
        jsonb_build_object('worker', g.worker, 'claim', cast(:claim as text)) as data
), logged as (
    insert into events (generation_id, kind, state, fence, data)
    select id, 'state', state, fence, data from changed
    returning id as event_id, generation_id
), charged as (
    insert into tiers (name, pass)
    select :tier, work / :share from (
        select sum(num_steps * coalesce("order"->>'drawn_width', "order"->>'width')::float8
            * coalesce("order"->>'drawn_height', "order"->>'height')::float8) / 1e6 as work
        from changed
    ) total
    where work is not null
    on conflict (name) do update set pass = tiers.pass + excluded.pass
)
select changed.id, account, fence, attempts, "order", num_steps, checkpoint_key, checkpoint_step, rank,
    changed.tier, changed.created_at,
    pg_notify('gamegen_videos',
        json_build_object('id', changed.id, 'event', logged.event_id, 'state', changed.state)::text)::text,
    case when changed.state in ('PENDING', 'QUEUED') then pg_notify('gamegen_work', changed.state)::text end
from changed join logged on logged.generation_id = changed.id

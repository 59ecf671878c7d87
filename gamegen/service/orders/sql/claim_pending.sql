-- Claims PENDING orders for a worker, the first in rank first.
with picked as (
    select id from generations
    where state = 'PENDING' and available_at <= now()
    order by rank limit :limit
    for update skip locked
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
)
select changed.id, account, fence, attempts, "order", num_steps, checkpoint_key, checkpoint_step, rank,
    changed.tier, changed.created_at,
    pg_notify('gamegen_videos',
        json_build_object('id', changed.id, 'event', logged.event_id, 'state', changed.state)::text)::text,
    case when changed.state in ('PENDING', 'QUEUED') then pg_notify('gamegen_work', changed.state)::text end
from changed join logged on logged.generation_id = changed.id

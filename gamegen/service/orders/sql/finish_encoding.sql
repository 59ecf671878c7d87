-- Moves orders that a worker holds from ENCODING to QUEUED, and ends their leases.
with locked as (
    -- In one order, so that two statements about the same orders never wait for each other.
    select g.*
    from generations g
    join unnest(cast(:ids as text[]), cast(:fences as bigint[])) as held(id, held_fence)
        on g.id = held.id and g.fence = held.held_fence
    where g.worker is not null
    order by g.id for update of g
), changed as (
    update generations g set
        state = :state, worker = null, lease_until = null, attempts = 0, available_at = now()
    from locked where g.id = locked.id and locked.state = any(cast(:before as text[]))
    returning g.id, g.state, g.fence, jsonb_build_object() as data
), logged as (
    insert into events (generation_id, kind, state, fence, data)
    select id, 'state', state, fence, data from changed
    returning id as event_id, generation_id
)
select changed.id,
    pg_notify('gamegen_videos',
        json_build_object('id', changed.id, 'event', logged.event_id, 'state', changed.state)::text)::text,
    case when changed.state in ('PENDING', 'QUEUED') then pg_notify('gamegen_work', changed.state)::text end
from changed join logged on logged.generation_id = changed.id
union all
-- Moved by an earlier attempt.
select g.id, null, null
from generations g
join unnest(cast(:ids as text[]), cast(:fences as bigint[])) as held(id, held_fence)
    on g.id = held.id and g.fence = held.held_fence
where g.state = :state

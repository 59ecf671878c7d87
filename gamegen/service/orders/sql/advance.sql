-- Moves orders that a worker holds to the next stage of their work.
with wanted as (
    select * from unnest(cast(:ids as text[]), cast(:fences as bigint[]), cast(:states as text[]))
        as wanted(id, held_fence, next)
), locked as (
    select g.id, g.state, wanted.next
    from generations g join wanted on g.id = wanted.id and g.fence = wanted.held_fence
    where g.worker is not null
    order by g.id for update of g
), changed as (
    -- Decoding follows the last denoising step, whose progress may not have been reported.
    update generations g set state = locked.next,
        step = case when locked.next = 'VAE_DECODING' then g.num_steps else g.step end
    from locked where g.id = locked.id and locked.state || '>' || locked.next = any(cast(:steps as text[]))
    returning g.id, g.state, g.fence, jsonb_build_object() as data
), logged as (
    insert into events (generation_id, kind, state, fence, data)
    select id, 'state', state, fence, data from changed
    returning id as event_id, generation_id
)
select changed.id, changed.fence, changed.state,
    pg_notify('gamegen_videos',
        json_build_object('id', changed.id, 'event', logged.event_id, 'state', changed.state)::text)::text,
    case when changed.state in ('PENDING', 'QUEUED') then pg_notify('gamegen_work', changed.state)::text end
from changed join logged on logged.generation_id = changed.id
union all
-- Moved by an earlier attempt, or not allowed to move.
select g.id, g.fence, g.state, null, null
from generations g join wanted on g.id = wanted.id and g.fence = wanted.held_fence
where g.state = wanted.next
    or g.worker is not null and not g.state || '>' || wanted.next = any(cast(:steps as text[]))

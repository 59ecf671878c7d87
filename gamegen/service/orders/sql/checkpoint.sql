-- Records a checkpoint of an order that a worker holds, in place of the one after :superseded steps, if any.
with locked as (
    -- In one order, so that two statements about the same orders never wait for each other.
    select g.*
    from generations g
    join unnest(cast(:ids as text[]), cast(:fences as bigint[])) as held(id, held_fence)
        on g.id = held.id and g.fence = held.held_fence
    where g.worker is not null
    order by g.id for update of g
), saved as (
    insert into checkpoints (generation_id, step, fence, key, size_bytes)
    select id, :step, fence, :key, :size_bytes from locked
    on conflict (generation_id, step) do update
        set fence = excluded.fence, key = excluded.key, size_bytes = excluded.size_bytes
    returning generation_id
), dropped as (
    delete from checkpoints c using locked
    where c.generation_id = locked.id and c.step = cast(:superseded as int) and c.step <> cast(:step as int)
), logged as (
    insert into events (generation_id, kind, state, fence, data)
    select id, 'checkpoint', state, fence, jsonb_build_object('step', cast(:step as int)) from locked
    returning id as event_id, generation_id, state
)
select saved.generation_id, pg_notify('gamegen_videos',
    json_build_object('id', saved.generation_id, 'event', logged.event_id, 'state', logged.state)::text)::text
from saved join logged on logged.generation_id = saved.generation_id

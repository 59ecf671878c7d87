-- Records the denoising steps of orders that a worker holds.
with locked as (
    -- In one order, so that two statements about the same orders never wait for each other.
    select g.*
    from generations g
    join unnest(cast(:ids as text[]), cast(:fences as bigint[])) as held(id, held_fence)
        on g.id = held.id and g.fence = held.held_fence
    where g.worker is not null
    order by g.id for update of g
), changed as (
    update generations g set step = least(done.step, g.num_steps), step_ms = done.step_ms
    from locked, unnest(cast(:ids as text[]), cast(:steps as int[]), cast(:step_ms as float8[]))
        as done(id, step, step_ms)
    where g.id = locked.id and done.id = g.id
    returning g.id, g.state, g.fence, g.step, g.num_steps, g.step_ms, g.cancel_requested
), logged as (
    insert into events (generation_id, kind, state, fence, data)
    select id, 'progress', state, fence,
        jsonb_build_object('step', step, 'num_steps', num_steps, 'step_ms', step_ms)
    from changed
    returning id as event_id, generation_id
)
select changed.id, cancel_requested,
    pg_notify('gamegen_videos',
        json_build_object('id', changed.id, 'event', logged.event_id, 'state', changed.state)::text)::text,
    case when changed.state in ('PENDING', 'QUEUED') then pg_notify('gamegen_work', changed.state)::text end,
    -- After a crash of the server the last half second of these may be lost; no call waits for the disk.
    set_config('synchronous_commit', 'off', true)
from changed join logged on logged.generation_id = changed.id

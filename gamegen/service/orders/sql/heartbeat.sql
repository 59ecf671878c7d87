-- Extends the leases of orders that a worker holds.
with locked as (
    -- In one order, so that two statements about the same orders never wait for each other.
    select g.*
    from generations g
    join unnest(cast(:ids as text[]), cast(:fences as bigint[])) as held(id, held_fence)
        on g.id = held.id and g.fence = held.held_fence
    where g.worker is not null
    order by g.id for update of g
)
update generations g set lease_until = now() + make_interval(secs => :lease_s)
from locked where g.id = locked.id and locked.worker = :worker
returning g.id, g.cancel_requested,
    -- After a crash of the server the last half second of these may be lost; no call waits for the disk.
    set_config('synchronous_commit', 'off', true)

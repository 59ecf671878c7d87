-- Ends orders that a worker holds as COMPLETED, with their files.
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
        state = 'COMPLETED', worker = null, lease_until = null, finished_at = now(), step = g.num_steps,
        content_key = r.content_key, content_bytes = r.content_bytes, content_sha256 = r.content_sha256,
        frames_sha256 = r.frames_sha256, thumbnail_key = r.thumbnail_key
    from locked join jsonb_to_recordset(cast(:results as jsonb)) as r(
        id text, fence bigint, content_key text, content_bytes bigint, content_sha256 text,
        frames_sha256 text, thumbnail_key text) on r.id = locked.id and r.fence = locked.fence
    where g.id = locked.id and g.state = any(cast(:before as text[]))
    returning g.*, 0 as refund, jsonb_build_object() as data
), logged as (
    insert into events (generation_id, kind, state, fence, data)
    select id, 'state', state, fence, data from changed
    returning id as event_id, generation_id
), settled as (
    insert into credits_ledger (account, generation_id, kind, millicredits)
    select account, id, 'refund', refund from changed where finished_at is not null and refund > 0
    union all
    select account, id, 'settle', 0 from changed where finished_at is not null and millicredits > 0
    returning account, millicredits
), owed as (
    select a.id, s.millicredits
    from accounts a
    join (
        select account, sum(millicredits) as millicredits from settled where millicredits > 0 group by account
    ) s on s.account = a.id
    order by a.id for no key update of a
), paid as (
    update accounts a set balance_millicredits = a.balance_millicredits + owed.millicredits
    from owed where a.id = owed.id
), webhooks as (
    insert into webhook_deliveries (id, generation_id, account, url, event, state)
    select 'msg_' || id, id, account, webhook_url, 'video.' || lower(state), 'pending'
    from changed where finished_at is not null and webhook_url is not null
    on conflict (id) do nothing
    returning id
)
select changed.id,
    pg_notify('gamegen_videos',
        json_build_object('id', changed.id, 'event', logged.event_id, 'state', changed.state)::text)::text,
    case when changed.state in ('PENDING', 'QUEUED') then pg_notify('gamegen_work', changed.state)::text end,
    case when changed.finished_at is not null and changed.webhook_url is not null
        then pg_notify('gamegen_webhooks', '')::text end
from changed join logged on logged.generation_id = changed.id

-- Puts orders that a worker holds back into the queue, or ends them.
with locked as (
    -- In one order, so that two statements about the same orders never wait for each other.
    select g.*
    from generations g
    join unnest(cast(:ids as text[]), cast(:fences as bigint[])) as held(id, held_fence)
        on g.id = held.id and g.fence = held.held_fence
    where g.worker is not null
    order by g.id for update of g
), decided as (
    -- A requested cancellation ends it here; after too many attempts it fails.
    select locked.*,
        case
            when locked.cancel_requested then 'CANCELLED'
            when :is_counted and locked.attempts >= :max_attempts then 'FAILED'
            when locked.state = 'ENCODING' then 'PENDING'
            else 'QUEUED'
        end as next
    from locked
), changed as (
    update generations g set
        state = d.next, worker = null, lease_until = null,
        attempts = case when :is_counted then g.attempts else g.attempts - 1 end,
        available_at = now() + make_interval(secs => case when cast(:retry_s as float8) = 0 then 0
            else least(:max_retry_s, :retry_s * power(2, least(g.attempts, 30) - 1)) end),
        finished_at = case when d.next in ('CANCELLED', 'FAILED') then now() end,
        millicredits = case d.next when 'FAILED' then 0
            when 'CANCELLED' then g.millicredits * least(g.step, g.num_steps) / g.num_steps
            else g.millicredits end,
        error_code = case when d.next = 'FAILED' then cast(:code as text) end,
        error_message = case when d.next = 'FAILED' then cast(:message as text) end
    from decided d where g.id = d.id
    returning g.*, d.millicredits - g.millicredits as refund,
        jsonb_strip_nulls(jsonb_build_object('worker', d.worker, 'code', cast(:code as text))) as data
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

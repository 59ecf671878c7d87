-- Inserts new orders and reserves their credits; orders with a finished clip end at once.
with new as (
    select * from jsonb_to_recordset(cast(:rows as jsonb)) as n(
        position int, id text, account text, request_id text, body_hash text, state text, tier text,
        priority int, "order" jsonb, batch_key text, content_hash text, webhook_url text,
        millicredits bigint, num_steps int, content_key text, content_bytes bigint, content_sha256 text,
        frames_sha256 text, thumbnail_key text)
), changed as (
    insert into generations (
        id, account, request_id, body_hash, state, tier, priority, "order", batch_key, content_hash,
        webhook_url, millicredits, num_steps, content_key, content_bytes, content_sha256, frames_sha256,
        thumbnail_key, step, finished_at, rank)
    select
        id, account, request_id, body_hash, state, tier, priority, "order", batch_key, content_hash,
        webhook_url, millicredits, num_steps, content_key, content_bytes, content_sha256, frames_sha256,
        thumbnail_key, case when state = 'COMPLETED' then num_steps else 0 end,
        case when state = 'COMPLETED' then now() end,
        -- Orders of one submission keep its order.
        extract(epoch from now()) - priority * cast(:ageing_s as float8) + position * 1e-6
    from new
    returning *
), logged as (
    insert into events (generation_id, kind, state, fence, data)
    select changed.id, 'state', s.state, 0, jsonb_build_object()
    from changed join (values (1, 'PENDING'), (2, 'COMPLETED')) as s(n, state)
        on s.n = 1 or changed.state = 'COMPLETED'
    order by changed.rank, s.n
    returning id as event_id, generation_id, state
), reserved as (
    insert into credits_ledger (account, generation_id, kind, millicredits)
    select account, id, 'reserve', -millicredits from changed where millicredits > 0
), paid as (
    update accounts a set balance_millicredits = a.balance_millicredits - s.millicredits
    from (select account, sum(millicredits) as millicredits from changed group by account) s
    where a.id = s.account and s.millicredits > 0
), webhooks as (
    insert into webhook_deliveries (id, generation_id, account, url, event, state)
    select 'msg_' || id, id, account, webhook_url, 'video.' || lower(state), 'pending'
    from changed where finished_at is not null and webhook_url is not null
    on conflict (id) do nothing
    returning id
)
select changed.*,
    pg_notify('gamegen_videos',
        json_build_object('id', changed.id, 'event', logged.event_id, 'state', changed.state)::text)::text,
    case when changed.state in ('PENDING', 'QUEUED') then pg_notify('gamegen_work', changed.state)::text end,
    case when changed.finished_at is not null and changed.webhook_url is not null
        then pg_notify('gamegen_webhooks', '')::text end
from changed join logged on logged.generation_id = changed.id and logged.state = changed.state

-- Notifies workers of every kind of work that can be claimed.
select pg_notify('gamegen_work', state)::text from unnest(array['PENDING', 'QUEUED']) as s(state)
where exists (
    select from generations g where g.state = s.state and g.worker is null and g.available_at <= now()
)

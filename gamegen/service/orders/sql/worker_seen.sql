-- Records that a worker is alive, and forgets workers not seen for a day.
with lost as (
    delete from workers where id in (
        select id from workers where seen_at < now() - interval '1 day' and id <> :id for update skip locked
    )
)
insert into workers (id, kind, node, started_at, seen_at) values (:id, :kind, :node, now(), now())
on conflict (id) do update set seen_at = excluded.seen_at

-- Orders with the same ids or request ids, and finished clips of the same content.
select false as is_drawn, g.* from generations g where id = any(cast(:ids as text[]))
union all
select false, g.* from generations g
join unnest(cast(:accounts as text[]), cast(:requests as text[])) as asked(account, request_id)
    on g.account = asked.account and g.request_id = asked.request_id
union all
(select distinct on (content_hash) true, g.* from generations g
where state = 'COMPLETED' and expired_at is null and content_hash = any(cast(:hashes as text[]))
order by content_hash, created_at)

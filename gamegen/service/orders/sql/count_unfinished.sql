-- Unfinished orders of each tier, by what they wait for.
select tier,
    count(*) filter (where state = 'PENDING') as pending,
    count(*) filter (where state = 'QUEUED') as queued,
    count(*) filter (where worker is not null) as leased,
    coalesce(extract(epoch from now() - min(created_at) filter (where state = 'QUEUED')), 0) as oldest_s
from generations where finished_at is null
group by tier

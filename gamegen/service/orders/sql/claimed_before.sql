-- Orders of a claim whose answer was lost: only a repeated attempt asks for them.
select g.id, g.account, g.fence, g.attempts, g."order", g.num_steps, g.rank, g.tier, g.created_at,
    c.key as checkpoint_key, c.step as checkpoint_step
from generations g
join events e on e.generation_id = g.id and e.fence = g.fence and e.data->>'claim' = :claim
left join lateral (
    select step, key from checkpoints where generation_id = g.id order by fence desc, step desc limit 1
) c on true
where g.worker = :worker

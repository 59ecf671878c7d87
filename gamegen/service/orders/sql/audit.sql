-- Writes verdicts of safety checks, unless an earlier attempt has.
insert into safety_audit (
    generation_id, subject, checker, score, threshold, is_allowed, reason, created_at)
select v.generation_id, v.subject, v.checker, v.score, v.threshold, v.is_allowed, v.reason, v.at
from jsonb_to_recordset(cast(:verdicts as jsonb)) as v(
    position int, generation_id text, at timestamptz, subject text, checker text, score float8, threshold float8,
    is_allowed boolean, reason text)
where not exists (
    select from safety_audit a where a.generation_id = v.generation_id and a.created_at = v.at
)
order by v.position

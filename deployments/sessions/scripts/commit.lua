-- Appends chunks to a session's log for the owner of `fence`, and renews the owner's lease.
-- Returns 'done', 'gone' (deleted), 'moved' (claimed by another) or 'behind' (chunks before `since` are lost).
-- KEYS: session, controls, spoken, ended, live, playing
-- ARGV: id, fence, since, control_bytes, lease_until, kept_ms, controls, snapshot_version, snapshot,
--       state, frames_sent, frames_dropped, followed (JSON list), (chunk, spoken)...
if redis.call('EXISTS', KEYS[4]) == 1 then return 'gone' end
local fence = redis.call('HGET', KEYS[1], 'fence')
if not fence then return 'behind' end
if fence ~= ARGV[2] then return 'moved' end
local version, since = tonumber(redis.call('HGET', KEYS[1], 'version')), tonumber(ARGV[3])
if version < since then return 'behind' end
local size = tonumber(ARGV[4])
local last = since + #ARGV[7] / size
if last > version then
  redis.call('APPEND', KEYS[2], string.sub(ARGV[7], (version - since) * size + 1))
  for i = 14, #ARGV, 2 do
    if tonumber(ARGV[i]) >= version then redis.call('RPUSH', KEYS[3], ARGV[i + 1]) end
  end
  if ARGV[13] ~= '' then redis.call('HSET', KEYS[1], 'followed', ARGV[13]) end
  redis.call('HSET', KEYS[1], 'version', last)
end
if ARGV[8] ~= '' then redis.call('HSET', KEYS[1], 'snapshot_version', ARGV[8], 'snapshot', ARGV[9]) end
redis.call('HSET', KEYS[1], 'state', ARGV[10], 'frames_sent', ARGV[11], 'frames_dropped', ARGV[12])
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[6]) end
redis.call('ZADD', KEYS[5], ARGV[5], ARGV[1])
redis.call('ZADD', KEYS[6], ARGV[5], ARGV[1])
return 'done'

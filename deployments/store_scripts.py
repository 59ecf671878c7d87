"""What happens in the session store at once or not at all, as Lua scripts that Valkey and Redis run.

Sorted sets hold the sessions that are live, play, or queue, by when that ends if nothing is heard (`live`, `playing`)
or by their turn (`queue`).
"""

_MAY_LIVE = """
-- Whether a user may have one more live session, which is then noted; those that live no more are forgotten.
local function may_live(user, live, id, most, kept_ms)
  local count = 0
  for _, other in ipairs(redis.call('SMEMBERS', user)) do
    if redis.call('ZSCORE', live, other) then count = count + 1 else redis.call('SREM', user, other) end
  end
  if count >= most then return false end
  redis.call('SADD', user, id)
  redis.call('PEXPIRE', user, kept_ms)
  return true
end
"""

CREATE = (
    _MAY_LIVE
    + """
-- session, controls, spoken, ended, sessions, live, user;
-- id, now, return_s, max_live, max_of_user, kept_ms, controls, spoken, fields...
redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', ARGV[2])
if redis.call('ZCARD', KEYS[6]) >= tonumber(ARGV[4]) then return 'full' end
local most = tonumber(ARGV[5])
if most > 0 and not may_live(KEYS[7], KEYS[6], ARGV[1], most, ARGV[6]) then return 'user' end
redis.call('ZADD', KEYS[6], ARGV[2] + ARGV[3], ARGV[1])
redis.call('ZADD', KEYS[5], ARGV[2], ARGV[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 9))
redis.call('SET', KEYS[2], ARGV[7])
for _, words in ipairs(cjson.decode(ARGV[8])) do redis.call('RPUSH', KEYS[3], words) end
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[6]) end
return 'done'
"""
)

CLAIM = """
-- session, controls, spoken, ended; kept_ms
if redis.call('EXISTS', KEYS[1]) == 0 then return {{}, '', {}} end
redis.call('HINCRBY', KEYS[1], 'fence', 1)
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
return {redis.call('HGETALL', KEYS[1]), redis.call('GET', KEYS[2]) or '', redis.call('LRANGE', KEYS[3], 0, -1)}
"""

COMMIT = """
-- session, controls, spoken, ended, live, playing;
-- id, fence, since, control_bytes, lease_until, kept_ms, controls, snapshot_version, snapshot,
-- state, frames_sent, frames_dropped, followed, (chunk, spoken)...
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
"""

KEEP_VIDEO_PROMPT = """
-- session; prefix, most, field, content
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
if redis.call('HEXISTS', KEYS[1], ARGV[3]) == 1 then return 'done' end
local kept = 0
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(name, 1, #ARGV[1]) == ARGV[1] then kept = kept + 1 end
end
if kept >= tonumber(ARGV[2]) then return 'full' end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
return 'done'
"""

ADMIT = (
    _MAY_LIVE
    + """
-- live, playing, queue, tickets, given, session; id, now, lease_until, capacity, max_of_user, user_prefix, kept_ms
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[2])
local most, user = tonumber(ARGV[5]), redis.call('HGET', KEYS[6], 'user')
-- Whoever was away for long comes back to a limit that holds for all sessions of a user at once.
if most > 0 and user and user ~= '' and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  if not may_live(ARGV[6] .. user, KEYS[1], ARGV[1], most, ARGV[7]) then return -1 end
end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
  return 0
end
if not redis.call('ZSCORE', KEYS[3], ARGV[1]) then
  redis.call('ZADD', KEYS[3], redis.call('INCR', KEYS[4]), ARGV[1])
end
for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  if not redis.call('ZSCORE', KEYS[1], id) then redis.call('ZREM', KEYS[3], id) end
end
local ahead = redis.call('ZRANK', KEYS[3], ARGV[1])
if redis.call('ZCARD', KEYS[2]) + ahead >= tonumber(ARGV[4]) then return ahead + 1 end
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('LPUSH', KEYS[5], ARGV[2])
redis.call('LTRIM', KEYS[5], 0, 15)
return 0
"""
)

RELEASE = """
-- session, live, playing, queue; id, fence, return_at, kept_ms
redis.call('ZREM', KEYS[4], ARGV[1])
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'state', 'waiting')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
return 1
"""

DELETE = """
-- session, controls, spoken, ended, sessions, live, playing, queue; id, ended_s
local was = redis.call('EXISTS', KEYS[1])
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
if was == 1 then redis.call('SET', KEYS[4], '1', 'EX', ARGV[2]) end
for i = 5, 8 do redis.call('ZREM', KEYS[i], ARGV[1]) end
return was
"""

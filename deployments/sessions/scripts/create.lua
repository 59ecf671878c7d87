-- Enters a session unless too many live. Returns 'done', 'full' (max_live reached) or 'user' (max_of_user reached).
-- Needs may_live.lua before it.
-- KEYS: session, controls, spoken, ended, sessions, live, user
-- ARGV: id, now, return_s, max_live, max_of_user (0: any number), kept_ms, controls, spoken (JSON list), fields...
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

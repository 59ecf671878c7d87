-- Admits a session to play, or queues it. Returns 0 if admitted, else its position in the queue (1 is the next),
-- or -1 if its user has too many live sessions. Needs may_live.lua before it.
-- The sorted sets: live and playing by the time at which a lease ends, queue by ticket number.
-- KEYS: live, playing, queue, tickets, given, session
-- ARGV: id, now, lease_until, capacity, max_of_user, user_prefix, kept_ms
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[2])
local most, user = tonumber(ARGV[5]), redis.call('HGET', KEYS[6], 'user')
-- A session whose lease ended counts for its user's limit again when it comes back.
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

-- Releases a session for the next claim, if `fence` is still its owner's. Returns 1 if it was released, else 0.
-- KEYS: session, live, playing, queue
-- ARGV: id, fence, return_at, kept_ms
redis.call('ZREM', KEYS[4], ARGV[1])
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'state', 'waiting')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
return 1

-- Deletes a session, and remembers for `ended_s` that it was deleted. Returns whether there was one.
-- KEYS: session, controls, spoken, ended, sessions, live, playing, queue
-- ARGV: id, ended_s
local was = redis.call('EXISTS', KEYS[1])
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
if was == 1 then redis.call('SET', KEYS[4], '1', 'EX', ARGV[2]) end
for i = 5, 8 do redis.call('ZREM', KEYS[i], ARGV[1]) end
return was

-- Raises a session's fence and returns {fields, controls, spoken}; the fields are empty if there is no such session.
-- KEYS: session, controls, spoken, ended
-- ARGV: kept_ms
if redis.call('EXISTS', KEYS[1]) == 0 then return {{}, '', {}} end
redis.call('HINCRBY', KEYS[1], 'fence', 1)
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
return {redis.call('HGETALL', KEYS[1]), redis.call('GET', KEYS[2]) or '', redis.call('LRANGE', KEYS[3], 0, -1)}

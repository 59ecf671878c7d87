-- Keeps a video prompt with a session that has fewer than `most`. Returns 'done', 'gone' or 'full'.
-- KEYS: session
-- ARGV: prefix of all fields of video prompts, most, field, content
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
if redis.call('HEXISTS', KEYS[1], ARGV[3]) == 1 then return 'done' end
local kept = 0
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(name, 1, #ARGV[1]) == ARGV[1] then kept = kept + 1 end
end
if kept >= tonumber(ARGV[2]) then return 'full' end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
return 'done'

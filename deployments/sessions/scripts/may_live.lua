-- Reserves one more live session for a user, or returns false if the user has `most`; forgets sessions that ended.
-- user: the key of the user's set of sessions; live: the key of all live sessions; kept_ms: the set's time to live.
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

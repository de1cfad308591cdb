-- Whether a bounded queue has no room for these messages, and its depth. A message that replaces the
-- one that runs is not refused, nor is the repeat of what was let in before.
-- `streams` are all of the queue. Needs nothing.
local function is_full(most, scheduled, streams, job_prefix, token, messages, successor)
  local depth = redis.call("ZCARD", scheduled)
  for _, stream in ipairs(streams) do
    depth = depth + redis.call("XLEN", stream)
  end
  if depth + #messages <= most then
    return false, depth
  end
  for _, message in ipairs(messages) do
    if message[successor] or redis.call("HGET", job_prefix .. message[1], "token") == token then
      return false, depth
    end
  end
  return true, depth
end

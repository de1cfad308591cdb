-- Decide whether a message may enter its queue, and note it in its record.
-- Returns the id under which the message is known: its own, or that of the earlier message
-- whose deduplication key it shares; and whether the caller is to store it.
local function admit(job_prefix, dedup, token, id, key, successor)
  local record = job_prefix .. id
  local prior = redis.call("HMGET", record, "token", "state")
  local live = prior[1] and not prior[2]
  if prior[1] == token or (live and not successor) then
    return id, false
  end
  if key ~= "" then
    local holder = redis.call("HGET", dedup, key)
    if holder and holder ~= id then
      return holder, false
    end
    redis.call("HSET", dedup, key, id)
  end
  if prior[1] then
    redis.call("DEL", record)
  end
  if key ~= "" then
    redis.call("HSET", record, "token", token, "dedup", key)
  else
    redis.call("HSET", record, "token", token)
  end
  return id, true
end

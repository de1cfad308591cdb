-- Decide whether a message may enter its queue, and note it in its record.
-- Returns the id under which the message is known: its own, or that of the earlier message
-- whose deduplication key it shares; and whether the caller is to store it.
-- Needs release_deduplication.
local function admit(job_prefix, dedup, token, id, key, successor)
  local record = job_prefix .. id
  local known = redis.call("HSETNX", record, "token", token) == 0
  local live, held = false, false
  if known then
    local prior = redis.call("HMGET", record, "token", "state", "dedup")
    live, held = not prior[2], prior[3]
    if prior[1] == token or (live and not successor) then
      return id, false
    end
  end
  if key ~= "" then
    local holder = redis.call("HGET", dedup, key)
    if holder and holder ~= id then
      if not known then
        redis.call("DEL", record)
      end
      return holder, false
    end
    redis.call("HSET", dedup, key, id)
  end
  if live then  -- a successor beside the copy that runs; its key is the message's from now on
    redis.call("HINCRBY", record, "others", 1)
    redis.call("HSET", record, "token", token)
    if held and held ~= key then
      release_deduplication(dedup, held, id)
      redis.call("HDEL", record, "dedup")
    end
  elseif known then
    redis.call("DEL", record)
    redis.call("HSET", record, "token", token)
  end
  if key ~= "" then
    redis.call("HSET", record, "dedup", key)
  end
  return id, true
end

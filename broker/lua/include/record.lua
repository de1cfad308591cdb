-- A finished job's record outlives it by this long (ms), so that a producer whose reply was
-- lost and who repeats the enqueue does not run the job twice.
local IDEMPOTENCY_MS = 60000

local function release_deduplication(dedup, key, id)
  if key ~= "" and redis.call("HGET", dedup, key) == id then
    redis.call("HDEL", dedup, key)
  end
end

-- A message may be there more than once: with a successor, or redriven after it was sent again.
-- `others` in its record counts the copies beyond one. Returns whether there was another one.
local function drop_copy(record, others)
  if (tonumber(others or "") or 0) < 1 then
    return false
  end
  redis.call("HINCRBY", record, "others", -1)
  return true
end

-- One copy of a message has ended: the record and the deduplication key end with the last one.
local function finish(dedup, record, id, state)
  local prior = redis.call("HMGET", record, "token", "others", "dedup")
  if drop_copy(record, prior[2]) then
    return
  end
  -- An entry of another language had no record: the token says that this one is not new.
  redis.call("HSET", record, "state", state, "token", prior[1] or "")
  redis.call("PEXPIRE", record, IDEMPOTENCY_MS)
  release_deduplication(dedup, prior[3] or "", id)
end

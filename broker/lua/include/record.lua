-- A finished job's record outlives it by this long (ms), so that a producer whose reply was
-- lost and who repeats the enqueue does not run the job twice.
local IDEMPOTENCY_MS = 60000

local function release_deduplication(dedup, key, id)
  if key ~= "" and redis.call("HGET", dedup, key) == id then
    redis.call("HDEL", dedup, key)
  end
end

local function finish(record, state)
  redis.call("HSET", record, "state", state)
  redis.call("PEXPIRE", record, IDEMPOTENCY_MS)
end

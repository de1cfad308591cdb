-- A finished job's record outlives it by this long (ms), so that a producer whose reply was
-- lost and who repeats the enqueue does not run the job twice.
local IDEMPOTENCY_MS = 60000
-- Events of a queue that are kept, about: whole nodes of the stream go.
local EVENTS_KEPT = 10000

-- Every event has the same fields, which the stream then packs to nothing. A key of another type
-- in the stream's place hinders no transition.
local function tell(events, event, id, actor, reason, error)
  redis.pcall(
    "XADD", events, "MAXLEN", "~", EVENTS_KEPT, "*",
    "event", event, "id", id, "actor", actor or "", "reason", reason or "", "error", error or ""
  )
end

-- `keys` has dedup and lapsing.
local function release_deduplication(keys, key, id)
  if key ~= "" and redis.call("HGET", keys.dedup, key) == id then
    redis.call("HDEL", keys.dedup, key)
    redis.call("ZREM", keys.lapsing, key)  -- the time of this holder: it is none of the next one's
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
-- `keys` has dedup, lapsing, job_prefix, events and recent, the index of the state; `facts` is a flat list
-- of fields for the record, or false when no record is kept. Then, and for a message that was
-- enqueued without one (no `entry`), what stays says for a while that the id is not new.
-- `begun` says that it ran: of one whose end was quicker than the word of its beginning both are told.
-- Returns the message's place in a flow when this was the last copy and it has one.
local function finish(keys, id, state, now, facts, reason, error, begun)
  local record = keys.job_prefix .. id
  local prior = redis.call("HMGET", record, "token", "others", "dedup", "entry", "flow", "started")
  if drop_copy(record, prior[2]) then
    return false
  end
  -- An entry of another language had no record: the token says that this one is not new.
  local token = prior[1] or ""
  -- The state comes first: by that whoever watches the server counts the ends.
  if facts and (prior[4] or not prior[1]) then
    redis.call("HSET", record, "state", state, "token", token, "finished", string.format("%d", now), unpack(facts))
    if keys.age_ms then
      redis.call("PEXPIRE", record, math.max(keys.age_ms, IDEMPOTENCY_MS))
    end
    redis.call("ZADD", keys.recent, now, id)
    if begun and not prior[6] then
      tell(keys.events, "started", id, facts[2])
    end
    tell(keys.events, state, id, facts[2], reason, error)
  else
    redis.call("HSET", record, "state", state, "token", token)
    redis.call("PEXPIRE", record, IDEMPOTENCY_MS)
  end
  release_deduplication(keys, prior[3] or "", id)
  return prior[5]
end

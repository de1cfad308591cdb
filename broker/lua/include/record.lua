-- A finished job's record outlives it by this long (ms), so that a producer whose reply was
-- lost and who repeats the enqueue does not run the job twice.
local IDEMPOTENCY_MS = 60000
-- Events of a queue that are kept, about: whole nodes of the stream go.
local EVENTS_KEPT = 10000

-- Every event has the same fields, which the stream then packs to nothing. A key of another type
-- in the stream's place hinders no transition. The stream is trimmed by nodes, of about as many events.
local TOLD_A_TRIMMING = 100
local told = 0
local function tell(events, event, id, actor, reason, error)
  if told % TOLD_A_TRIMMING == 0 then
    redis.pcall(
      "XADD", events, "MAXLEN", "~", EVENTS_KEPT, "*",
      "event", event, "id", id, "actor", actor or "", "reason", reason or "", "error", error or ""
    )
  else
    redis.pcall(
      "XADD", events, "*", "event", event, "id", id, "actor", actor or "", "reason", reason or "", "error", error or ""
    )
  end
  told = told + 1
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

-- What the end of a message has to know of its record.
local function prior_of(record)
  return redis.call("HMGET", record, "token", "others", "dedup", "entry", "flow", "started", "finished")
end

-- One copy of a message has ended: the record and the deduplication key end with the last one.
-- `keys` has dedup, lapsing, job_prefix, events and recent, the index of the state; `facts` is a flat list
-- of fields for the record, or false when no record is kept. Then, and for a message that was
-- enqueued without one (no `entry`), what stays says for a while that the id is not new. A record that is
-- kept stays so: of copies whose record was purged each but the first finds the one of the first.
-- `begun` says that it ran: of one whose end was quicker than the word of its beginning both are told.
-- `prior` is what `prior_of` says of its record, for whom has asked already.
-- Returns the message's place in a flow when this was the last copy and it has one.
local function finish(keys, id, state, now, facts, reason, error, begun, prior)
  local record = keys.job_prefix .. id
  prior = prior or prior_of(record)
  if drop_copy(record, prior[2]) then
    return false
  end
  if not prior[1] then  -- of another language; the token says that its message is not new
    redis.call("HSET", record, "token", "")
  end
  -- The state comes first: by that whoever watches the server counts the ends.
  if facts and (prior[4] or prior[7] or not prior[1]) then
    local at = string.format("%d", now)
    redis.call("HSET", record, "state", state, "finished", at, unpack(facts))
    if keys.age_ms then
      redis.call("PEXPIRE", record, math.max(keys.age_ms, IDEMPOTENCY_MS))
    end
    if keys.ends then
      keys.ends[#keys.ends + 1] = at
      keys.ends[#keys.ends + 1] = id
    else
      redis.call("ZADD", keys.recent, at, id)
    end
    if begun and not prior[6] then
      tell(keys.events, "started", id, facts[2])
    end
    tell(keys.events, state, id, facts[2], reason, error)
  else
    redis.call("HSET", record, "state", state)
    redis.call("PEXPIRE", record, IDEMPOTENCY_MS)
  end
  release_deduplication(keys, prior[3] or "", id)
  return prior[5]
end

-- Put an entry aside as it is until `due`, unix ms; no attempt is used up. The caller has checked the fence.
-- `keys` has scheduled, messages, ready, job_prefix and events. Needs drop_copy, tell and field.
-- A message without an id is kept under the entry's, and leaves no record. Returns whether `due` is
-- now the earliest.
local function park(keys, level, entry, deliveries, id, due)
  local found = redis.call("XRANGE", keys.ready, entry, entry)[1]
  if not found then  -- deleted by hand: nothing left to run
    redis.call("XACK", keys.ready, "workers", entry)
    return false
  end
  local fields, record = found[2], keys.job_prefix .. id
  local actor, named = field(fields, "actor"), field(fields, "id") == id
  if level > 0 then
    fields[#fields + 1] = "level"
    fields[#fields + 1] = tostring(level)
  end
  local head = redis.call("ZRANGE", keys.scheduled, 0, 0, "WITHSCORES")
  redis.call("HSET", keys.messages, id, cmsgpack.pack(fields))
  if redis.call("ZADD", keys.scheduled, due, id) == 0 then  -- in place of a scheduled successor
    drop_copy(record, redis.call("HGET", record, "others"))
  end
  local prior = redis.call("HMGET", record, "token", "entry")
  if named and (prior[2] or not prior[1]) then  -- another language's message has no record yet
    redis.call("HSET", record, "token", prior[1] or "", "entry", "", "due", string.format("%.0f", due))
    redis.call("HDEL", record, "started")
    tell(keys.events, "scheduled", id, actor)
  end
  if named and deliveries > 1 then  -- what kills its worker must not begin anew each time it is parked
    redis.call("HINCRBY", record, "unsettled", deliveries - 1)
  end
  redis.call("XACK", keys.ready, "workers", entry)
  redis.call("XDEL", keys.ready, entry)
  return not head[2] or due < tonumber(head[2])
end

-- The slots of one key: a ZSET, holder -> end of its lease, unix ms. The holder is one delivery of a
-- job, or the id of a job that has been called and is on its way.
-- Needs each_waiting and keep_for.

-- How long (ms) a slot is held for the job that was called, so that nobody overtakes it. Not longer:
-- with a long queue before it, the slot would stand idle.
local CALLED_MS = 250

local function lease_slot(slots, holder, now, lease_ms)
  redis.call("ZADD", slots, now + lease_ms, holder)
  keep_for(slots, 2 * lease_ms)
end

-- Call as many from the line as there are slots free. Returns how many signals are due.
local function call_waiting(keys, most, now)
  redis.call("ZREMRANGEBYSCORE", keys.slots, "-inf", now)
  local free = most - redis.call("ZCARD", keys.slots)
  local called = 0
  if free > 0 then
    each_waiting(keys.line, keys.scheduled, keys.job_prefix, function(id, due)
      if due > now then
        redis.call("ZADD", keys.scheduled, now, id)
        lease_slot(keys.slots, id, now, CALLED_MS)
        called = called + 1
      end
      return called == free
    end)
  end
  return called
end

-- Drop the record of a job that ended in this state at that time (unix ms), but not before a
-- repeated enqueue of it is out of the question. One that lives again, or ended anew, stays.
-- Needs IDEMPOTENCY_MS.
local function forget(recent, job_prefix, state, id, finished, now)
  redis.call("ZREM", recent, id)
  local record = job_prefix .. id
  if redis.call("HGET", record, "state") ~= state then
    return
  end
  local left = finished + IDEMPOTENCY_MS - now
  if left > 0 then
    redis.call("PEXPIRE", record, left)
  else
    redis.call("UNLINK", record)
  end
end

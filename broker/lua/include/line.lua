-- Jobs of one key that wait, in the order in which they came: a ZSET, id -> place.
-- A job is in at most one line, and never only there: it is scheduled as well.

-- From the head on, so many that have not ended are looked at for one that still waits, and so many
-- that have ended leave the line meanwhile: some milliseconds.
local LOOKED_AT, MOST_DROPPED = 16, 1000
-- A line is forgotten this long (ms) after the time at which its last job should have come, and the
-- state of a key after it has lost its meaning.
local LINE_KEPT_MS, STATE_KEPT_MS = 3600000, 60000

local function keep_for(key, ms)
  if redis.call("PTTL", key) < ms then
    redis.call("PEXPIRE", key, string.format("%.0f", ms))
  end
end

-- The number of jobs before this one; a job that is new goes to the end.
local function join_line(line, id)
  local place = redis.call("ZRANK", line, id)
  if not place then
    local last = redis.call("ZRANGE", line, -1, -1, "WITHSCORES")
    redis.call("ZADD", line, (tonumber(last[2] or "") or 0) + 1, id)
    place = redis.call("ZRANK", line, id)
  end
  return place
end

-- Call `each` with id, due time and place of those at the head that wait for their time, until it
-- returns true. Who is on the way to a worker is passed over; who is gone leaves the line.
local function each_waiting(line, scheduled, job_prefix, each)
  local place, dropped = 0, 0
  while place < LOOKED_AT and dropped < MOST_DROPPED do
    local id = redis.call("ZRANGE", line, place, place)[1]
    if not id then
      return
    end
    local due = redis.call("ZSCORE", scheduled, id)
    local known = not due and redis.call("HMGET", job_prefix .. id, "token", "state")
    if due and each(id, tonumber(due), place) then
      return
    end
    if known and (not known[1] or known[2]) then  -- purged, or at its end
      redis.call("ZREM", line, id)
      dropped = dropped + 1
    else
      place = place + 1
    end
  end
end

-- A job that was cancelled leaves its line, and who is the first then comes when it would have come.
-- Returns whether that is sooner than before.
local function leave_line(line, scheduled, job_prefix, id, due)
  local sooner = false
  if redis.call("ZREM", line, id) == 1 then
    each_waiting(line, scheduled, job_prefix, function(waiting, was_due, place)
      if place == 0 and due < was_due then
        redis.call("ZADD", scheduled, due, waiting)
        sooner = true
      end
      return true
    end)
  end
  return sooner
end

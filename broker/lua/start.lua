#!lua flags=allow-oom
-- start: let a job in flight begin under the limits of its keys, or park it until it may.
-- KEYS[1] scheduled  ZSET    id -> due time, unix ms
-- KEYS[2] messages   HASH    id -> the entry's fields, packed
-- KEYS[3] wake       STREAM
-- KEYS[4] ready      STREAM  of the delivery's level
-- KEYS[5] job prefix prefix of the records, completed with the message id
-- KEYS[6] rate       HASH    of the rate's key: tat and interval, us; held_until, unix ms
-- KEYS[7] rate line  ZSET    id -> place, of those that wait for the rate
-- KEYS[8] holds      HASH    of the concurrency's key: held_until, unix ms
-- KEYS[9] slots      ZSET    holder -> end of its lease, unix ms
-- KEYS[10] slots line ZSET   id -> place, of those that wait for a slot
-- KEYS[11] events    STREAM
-- ARGV[1] level      int
-- ARGV[2] entry      id
-- ARGV[3] deliveries int     of the entry, this one included
-- ARGV[4] consumer   str
-- ARGV[5] message id str
-- ARGV[6] interval   int     us from one start to the next; 0: no rate
-- ARGV[7] tolerance  int     us that a start may be early by the interval
-- ARGV[8] most       int     jobs of the concurrency's key at once; 0: no bound
-- ARGV[9] lease      int     ms that a slot is held without renewal
-- Returns {started, parked, cancelled (somebody wants it to be) or stale (another delivery owns the entry), now us,
--         due or 0, unix ms, holder of the slot or ""}
-- Errors  none of its own
-- Cost    O(log N), N scheduled or in line, and as much a job found ended; when no slot is free also O(slots)
--@include fields
--@include wake
--@include record
--@include park
--@include line
--@include slots
local time = redis.call("TIME")
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)
local level, entry, deliveries = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local interval, tolerance = tonumber(ARGV[6]), tonumber(ARGV[7])
local most, lease_ms = tonumber(ARGV[8]), tonumber(ARGV[9])
local scheduled, wake, ready, job_prefix = KEYS[1], KEYS[3], KEYS[4], KEYS[5]
local id = ARGV[5] ~= "" and ARGV[5] or level .. ":" .. entry
local holder = id .. " " .. entry .. " " .. deliveries
local slot_keys = { slots = KEYS[9], line = KEYS[10], scheduled = scheduled, job_prefix = job_prefix }
local signals = 0

local pending = redis.pcall("XPENDING", ready, "workers", entry, entry, 1)
local delivery = not pending.err and pending[1]
if not delivery or delivery[2] ~= ARGV[4] or delivery[4] ~= deliveries then
  return { "stale", now_us, 0, "" }
end

if redis.call("HEXISTS", job_prefix .. id, "cancel") == 1 then
  for _, line in ipairs({ KEYS[7], KEYS[10] }) do
    signals = signals + (leave_line(line, scheduled, job_prefix, id, now) and 1 or 0)
  end
  signal(wake, signals)
  return { "cancelled", now_us, 0, "" }
end

local function as_text(number)
  return string.format("%.0f", number)
end

local function held_until(key)
  return tonumber(redis.call("HGET", key, "held_until") or "") or 0
end

local function keep_rate(tat)
  redis.call("HSET", KEYS[6], "tat", as_text(tat), "interval", as_text(interval))
  keep_for(KEYS[6], tat / 1000 - now + STATE_KEPT_MS)
end

-- The next in line comes exactly when it may, whatever it was told when it was parked.
local function call_next(opens_us, how_many)
  each_waiting(KEYS[7], scheduled, job_prefix, function(waiting, was_due, place)
    local due = math.ceil((opens_us + place * interval) / 1000)
    if was_due ~= due then
      redis.call("ZADD", scheduled, due, waiting)
      signals = signals + (due < was_due and 1 or 0)
    end
    how_many = how_many - 1
    return how_many == 0
  end)
end

-- The theoretical arrival time, and when the first in line may start, us: GCRA (ITU-T I.371) over
-- what has really started, so that a late start can't be followed by an early one.
local function rate_opens()
  local state = redis.call("HMGET", KEYS[6], "tat", "interval")
  local tat, before = tonumber(state[1] or "") or 0, tonumber(state[2] or "") or interval
  tat = tat + interval - before  -- another rate counts from the last start as well
  local opens_us = math.max(tat - tolerance, held_until(KEYS[6]) * 1000)
  if before ~= interval then
    keep_rate(tat)
    call_next(opens_us, LOOKED_AT)
  end
  return tat, opens_us
end

local function park_until(due, line)
  local keys = { scheduled = scheduled, messages = KEYS[2], ready = ready, job_prefix = job_prefix, events = KEYS[11] }
  if park(keys, level, entry, deliveries, id, due) then
    signals = signals + 1
  end
  if line then
    keep_for(line, due - now + LINE_KEPT_MS)
    if redis.call("EXISTS", job_prefix .. id) == 1 then
      redis.call("HSET", job_prefix .. id, "line", line)  -- for who cancels it
    end
  end
  signal(wake, signals)
  return { "parked", now_us, due, "" }
end

local function leave_slots()
  if most > 0 then
    redis.call("ZREM", KEYS[9], id)
    redis.call("ZREM", KEYS[10], id)
    signals = signals + call_waiting(slot_keys, most, now)
  end
end

local tat = 0
if interval > 0 then
  local opens_us
  tat, opens_us = rate_opens()
  local place = redis.call("ZRANK", KEYS[7], id) or redis.call("ZCARD", KEYS[7])
  local due_us = opens_us + place * interval
  if due_us > now_us then
    leave_slots()
    join_line(KEYS[7], id)
    return park_until(math.ceil(due_us / 1000), KEYS[7])
  end
end

if most > 0 then
  local held = held_until(KEYS[8])
  if held > now then
    leave_slots()
    redis.call("ZREM", KEYS[7], id)
    return park_until(held)
  end
  redis.call("ZREMRANGEBYSCORE", KEYS[9], "-inf", now)
  redis.call("ZREM", KEYS[9], id)  -- it was called, and this is it
  if redis.call("ZCARD", KEYS[9]) >= most then
    for _, other in ipairs(redis.call("ZRANGE", KEYS[9], 0, -1)) do
      if string.sub(other, 1, #id + 1) == id .. " " then  -- of a delivery that ended unsettled
        redis.call("ZREM", KEYS[9], other)
      end
    end
  end
  if redis.call("ZCARD", KEYS[9]) >= most then
    redis.call("ZREM", KEYS[7], id)
    local place = join_line(KEYS[10], id)
    local rank = place % most
    local lease_ends = redis.call("ZRANGE", KEYS[9], rank, rank, "WITHSCORES")[2]
    return park_until(tonumber(lease_ends) + math.floor(place / most) * lease_ms, KEYS[10])
  end
  lease_slot(KEYS[9], holder, now, lease_ms)
  redis.call("ZREM", KEYS[10], id)
  signals = signals + call_waiting(slot_keys, most, now)
end

if interval > 0 then
  tat = math.max(tat, now_us) + interval
  keep_rate(tat)
  redis.call("ZREM", KEYS[7], id)
  call_next(tat - tolerance, 1)
end
signal(wake, signals)
return { "started", now_us, 0, most > 0 and holder or "" }

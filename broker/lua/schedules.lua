#!lua flags=no-writes
-- schedules: the schedules of one queue at one moment.
-- KEYS[1] schedules   HASH  name -> definition
-- KEYS[2] state       HASH  what:name -> value
-- KEYS[3] job prefix  prefix of the records, completed with the message id
-- KEYS[4] control     HASH  present when the queue is paused, limited or closed
-- Returns {now, closed 0|1, [name, definition, mark, fired, last message id, waiting, outcome, skipped, missed,
--         paused, declared, outcome of the last message by its record], ...}; false for what is not; times unix ms
-- Errors  none of its own
-- Cost    O(S), S schedules
--@include clock
--@include unfinished
local job_prefix = KEYS[3]
local WHAT = { "mark", "fired", "last", "waiting", "outcome", "skipped", "missed", "paused", "declared" }

local reply = { string.format("%d", now_ms()), redis.call("HEXISTS", KEYS[4], "closed") }
local definitions = redis.call("HGETALL", KEYS[1])
for i = 1, #definitions, 2 do
  local name, fields = definitions[i], {}
  for n, what in ipairs(WHAT) do
    fields[n] = what .. ":" .. name
  end
  local row = redis.call("HMGET", KEYS[2], unpack(fields))
  local outcome = false
  if row[3] then
    outcome = unfinished(job_prefix .. row[3]) and "unfinished" or redis.call("HGET", job_prefix .. row[3], "state")
  end
  reply[#reply + 1] = { name, definitions[i + 1], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], row[9], outcome }
end
return reply

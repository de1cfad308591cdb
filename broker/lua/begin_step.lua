#!lua flags=allow-oom
-- begin_step: note that a message of a flow runs, and find what it is given.
-- KEYS[1] flow        HASH    as in flow.lua
-- KEYS[2] results     HASH    by message
-- ARGV[1] number      int     of the step
-- ARGV[2] always      0|1     begin also when the flow was cancelled or ran out of time
-- ARGV[3..] given     int     first message, count, ... of those whose results it is given
-- Returns {the flow's state or "", 1 if the message may run, ms until the deadline or -1, results, each "" for none, ...}
-- Errors  none of its own
-- Cost    O(results)
--@include clock
local GIVEN_A_CALL = 5000
local found = redis.call("HMGET", KEYS[1], "state", "deadline", "reason")
local state, reason, now, left = found[1] or "", found[3], now_ms(), -1
if found[2] then
  left = math.max(0, tonumber(found[2]) - now)
  if left == 0 and state == "running" then
    redis.call("HSET", KEYS[1], "state", "stopping", "reason", "timed_out")
    state, reason = "stopping", "timed_out"
  end
end
local stopped = reason == "cancelled" or reason == "timed_out"
local may_run = state ~= "" and (ARGV[2] == "1" or not stopped)
local reply = { state, may_run and 1 or 0, left }
if not may_run then
  return reply
end
redis.call("HSETNX", KEYS[1], ARGV[1] .. ":started", string.format("%d", now))
for i = 3, #ARGV, 2 do
  local first, last = tonumber(ARGV[i]), tonumber(ARGV[i]) + tonumber(ARGV[i + 1]) - 1
  for from = first, last, GIVEN_A_CALL do
    local names = {}
    for n = from, math.min(last, from + GIVEN_A_CALL - 1) do
      names[#names + 1] = n
    end
    for _, result in ipairs(redis.call("HMGET", KEYS[2], unpack(names))) do
      reply[#reply + 1] = result or ""
    end
  end
end
return reply

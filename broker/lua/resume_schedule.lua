#!lua flags=allow-oom
-- resume_schedule: end the pause of a schedule. The times in between are not missed ones.
-- KEYS[1] schedules   HASH  name -> definition
-- KEYS[2] state       HASH  what:name -> value
-- ARGV[1] name        str
-- Returns 1 if it was paused, 0 if it was not, -1 if there is no such schedule
-- Errors  none of its own
-- Cost    O(1)
--@include clock
local name = ARGV[1]
if redis.call("HEXISTS", KEYS[1], name) == 0 then
  return -1
end
if redis.call("HDEL", KEYS[2], "paused:" .. name) == 0 then
  return 0
end
local mark = math.max(now_ms(), tonumber(redis.call("HGET", KEYS[2], "mark:" .. name) or "0"))
redis.call("HSET", KEYS[2], "mark:" .. name, string.format("%d", mark))
return 1

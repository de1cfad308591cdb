#!lua flags=allow-oom
-- pause_schedule: fire a schedule no more until it is resumed.
-- KEYS[1] schedules   HASH  name -> definition
-- KEYS[2] state       HASH  what:name -> value
-- ARGV[1] name        str
-- Returns 1 if it was running, 0 if it was paused already, -1 if there is no such schedule
-- Errors  none of its own
-- Cost    O(1)
if redis.call("HEXISTS", KEYS[1], ARGV[1]) == 0 then
  return -1
end
return redis.call("HSETNX", KEYS[2], "paused:" .. ARGV[1], 1)

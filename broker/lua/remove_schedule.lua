#!lua flags=allow-oom
-- remove_schedule: forget a schedule; messages of its fires stay.
-- KEYS[1] schedules   HASH  name -> definition
-- KEYS[2] state       HASH  what:name -> value
-- ARGV[1] name        str
-- ARGV[2..] what      str   the kinds of state there are
-- Returns 1, or 0 if there was no such schedule
-- Errors  none of its own
-- Cost    O(1)
for i = 2, #ARGV do
  redis.call("HDEL", KEYS[2], ARGV[i] .. ":" .. ARGV[1])
end
return redis.call("HDEL", KEYS[1], ARGV[1])

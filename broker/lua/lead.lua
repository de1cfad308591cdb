#!lua flags=allow-oom
-- lead: be the one process of all that does something, for a while; asked again in time, go on.
-- KEYS[1] leader  STRING  who leads
-- ARGV[1] name    str     who asks
-- ARGV[2] lasts   int     ms from now
-- Returns 1 if the asker leads, 0 if another does
-- Errors  none of its own
-- Cost    O(1)
local leader = redis.call("GET", KEYS[1])
if leader and leader ~= ARGV[1] then
  return 0
end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return 1

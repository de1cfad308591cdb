#!lua flags=allow-oom
-- reap_group: forget consumers of a group that are long gone and hold nothing. The stream stays as it is.
-- KEYS[1] events      STREAM  the application's
-- ARGV[1] group       str
-- ARGV[2] idle        int     ms since a consumer was last seen
-- Returns the number of consumers removed
-- Errors  none of its own
-- Cost    O(C), C consumers of the group
--@include fields
local removed = 0
local consumers = redis.pcall("XINFO", "CONSUMERS", KEYS[1], ARGV[1])
for _, consumer in ipairs(consumers.err and {} or consumers) do
  -- DELCONSUMER drops the pending list, so never where there is one to lose.
  if field(consumer, "pending") == 0 and field(consumer, "idle") >= tonumber(ARGV[2]) then
    redis.call("XGROUP", "DELCONSUMER", KEYS[1], ARGV[1], field(consumer, "name"))
    removed = removed + 1
  end
end
return removed

#!lua flags=allow-oom
-- reap: forget consumers that are long gone and hold nothing.
-- KEYS[1] stream   STREAM  a ready level or wake
-- ARGV[1] idle     int     ms since a consumer was last seen
-- ARGV[2] signals  0|1     1 on wake, where pending signals may go with their consumer
-- Returns the number of consumers removed
-- Errors  none of its own
-- Cost    O(C), C consumers of the group
--@include fields
local consumers = redis.pcall("XINFO", "CONSUMERS", KEYS[1], "workers")
if consumers.err then
  return 0
end
local removed = 0
for _, consumer in ipairs(consumers) do
  local name = field(consumer, "name")
  -- DELCONSUMER drops the pending list, so never where there is one to lose.
  local empty = field(consumer, "pending") == 0 or ARGV[2] == "1"
  if empty and field(consumer, "idle") >= tonumber(ARGV[1]) and name ~= "~released" then
    redis.call("XGROUP", "DELCONSUMER", KEYS[1], "workers", name)
    removed = removed + 1
  end
end
return removed

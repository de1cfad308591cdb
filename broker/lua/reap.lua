#!lua flags=allow-oom
-- reap: forget consumers of one queue that are long gone and hold nothing.
-- KEYS[1] wake     STREAM  where pending signals may go with their consumer
-- KEYS[2..] ready  STREAM  one a level
-- ARGV[1] idle     int     ms since a consumer was last seen
-- Returns the number of consumers removed, counted once a stream
-- Errors  none of its own
-- Cost    O(C) a stream, C consumers of the group
--@include fields
local removed = 0

-- DELCONSUMER drops the pending list, so never where there is one to lose.
local function reap(key, drop_pending)
  local consumers = redis.pcall("XINFO", "CONSUMERS", key, "workers")
  for _, consumer in ipairs(consumers.err and {} or consumers) do
    local name = field(consumer, "name")
    local empty = drop_pending or field(consumer, "pending") == 0
    if empty and field(consumer, "idle") >= tonumber(ARGV[1]) and name ~= "~released" then
      redis.call("XGROUP", "DELCONSUMER", key, "workers", name)
      removed = removed + 1
    end
  end
end

reap(KEYS[1], true)
for i = 2, #KEYS do
  reap(KEYS[i], false)
end
return removed

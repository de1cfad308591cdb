#!lua flags=allow-oom
-- reap: forget consumers that are long gone and hold nothing.
-- KEYS[1] stream   STREAM  a ready level or wake
-- ARGV[1] idle     int     ms since a consumer was last seen
-- ARGV[2] signals  0|1     1 on wake, where pending signals may go with their consumer
-- Returns the number of consumers removed
-- Errors  none of its own
-- Cost    O(C), C consumers of the group
local consumers = redis.pcall("XINFO", "CONSUMERS", KEYS[1], "workers")
if consumers.err then
  return 0
end
local removed = 0
for _, flat in ipairs(consumers) do
  local info = {}
  for i = 1, #flat, 2 do
    info[flat[i]] = flat[i + 1]
  end
  -- DELCONSUMER drops the pending list, so never where there is one to lose.
  local empty = info.pending == 0 or ARGV[2] == "1"
  if empty and info.idle >= tonumber(ARGV[1]) and info.name ~= "~released" then
    redis.call("XGROUP", "DELCONSUMER", KEYS[1], "workers", info.name)
    removed = removed + 1
  end
end
return removed

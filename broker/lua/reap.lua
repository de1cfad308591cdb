#!lua flags=allow-oom
-- reap: forget consumers of one queue that are long gone and hold nothing.
-- KEYS[1] wake     STREAM  where pending signals may go with their consumer
-- KEYS[2..] ready  STREAM  one a level, lowest first
-- ARGV[1..] gone   msgpack [level, or -1 for wake, name] of a consumer that was not seen for long
-- Returns the number of consumers removed, counted once a stream
-- Errors  none of its own
-- Cost    O(1) a consumer
local removed = 0
for i = 1, #ARGV do
  local level, name = unpack(cmsgpack.unpack(ARGV[i]))
  local key = level < 0 and KEYS[1] or KEYS[2 + level]
  -- DELCONSUMER drops the pending list, so never where there is one to lose.
  local held = level >= 0 and redis.pcall("XPENDING", key, "workers", "-", "+", 1, name) or {}
  if not held.err and not held[1] then
    local gone = redis.pcall("XGROUP", "DELCONSUMER", key, "workers", name)
    removed = removed + (type(gone) == "number" and 1 or 0)  -- else the group is gone as well
  end
end
return removed

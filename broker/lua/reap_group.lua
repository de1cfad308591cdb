#!lua flags=allow-oom
-- reap_group: forget consumers of a group that are long gone and hold nothing. The stream stays as it is.
-- KEYS[1] events      STREAM  the application's
-- ARGV[1] group       str
-- ARGV[2..] consumer  str     that was not seen for long
-- Returns the number of consumers removed
-- Errors  none of its own
-- Cost    O(1) a consumer
local removed = 0
for i = 2, #ARGV do
  -- DELCONSUMER drops the pending list, so never where there is one to lose.
  local held = redis.pcall("XPENDING", KEYS[1], ARGV[1], "-", "+", 1, ARGV[i])
  if not held.err and not held[1] then
    redis.call("XGROUP", "DELCONSUMER", KEYS[1], ARGV[1], ARGV[i])
    removed = removed + 1
  end
end
return removed

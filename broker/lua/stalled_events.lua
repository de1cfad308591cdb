#!lua flags=no-writes
-- stalled_events: events of a group whose consumer has said nothing for the lease.
-- KEYS[1] events      STREAM  the application's
-- ARGV[1] group       str
-- ARGV[2] lease       int     ms
-- ARGV[3] limit       int     the most to return
-- Returns {id, deliveries, id, deliveries, ...}
-- Errors  none of its own
-- Cost    O(P), P pending events
local found = {}
for _, row in ipairs(redis.call("XPENDING", KEYS[1], ARGV[1], "IDLE", ARGV[2], "-", "+", ARGV[3])) do
  found[#found + 1] = row[1]
  found[#found + 1] = row[4]
end
return found

#!lua flags=allow-oom
-- renew: reset the idle time of deliveries that this process still owns.
-- KEYS[1..] ready     STREAM  one a level, lowest first
-- ARGV[1..] delivery  msgpack [level, entry id, delivery count, consumer]
-- Returns the indexes, from 1, of those that are lost: reclaimed or settled by somebody else
-- Errors  none of its own
-- Cost    O(log N) a delivery, N pending
local lost = {}
for i = 1, #ARGV do
  local d = cmsgpack.unpack(ARGV[i])
  local key = KEYS[1 + d[1]]
  local pending = redis.pcall("XPENDING", key, "workers", d[2], d[2], 1)
  local entry = not pending.err and pending[1]
  if entry and entry[2] == d[4] and entry[4] == d[3] then
    redis.call("XCLAIM", key, "workers", d[4], 0, d[2], "JUSTID")
  else
    lost[#lost + 1] = i
  end
end
return lost

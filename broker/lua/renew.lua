#!lua flags=allow-oom
-- renew: reset the idle time of deliveries that this process still owns.
-- KEYS[1] job prefix  prefix of the records, completed with the message id
-- KEYS[2..] ready     STREAM  one a level, lowest first
-- ARGV[1..] delivery  msgpack [level, entry id, delivery count, consumer, message id]
-- Returns {lost, cancelled}, each the indexes, from 1: of those reclaimed or settled by somebody
--         else, and of those owned that somebody wants cancelled
-- Errors  none of its own
-- Cost    O(log N) a delivery, N pending
local lost, cancelled, job_prefix = {}, {}, KEYS[1]
for i = 1, #ARGV do
  local d = cmsgpack.unpack(ARGV[i])
  local key = KEYS[2 + d[1]]
  local pending = redis.pcall("XPENDING", key, "workers", d[2], d[2], 1)
  local entry = not pending.err and pending[1]
  if entry and entry[2] == d[4] and entry[4] == d[3] then
    redis.call("XCLAIM", key, "workers", d[4], 0, d[2], "JUSTID")
    if redis.pcall("HEXISTS", job_prefix .. d[5], "cancel") == 1 then  -- of another type: not cancelled
      cancelled[#cancelled + 1] = i
    end
  else
    lost[#lost + 1] = i
  end
end
return { lost, cancelled }

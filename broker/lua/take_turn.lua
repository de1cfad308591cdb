#!lua flags=allow-oom
-- take_turn: let one process of all send the next notice of failures.
-- KEYS[1] notices     HASH    holder and until (unix ms) of a turn that is taken; next -> when one may be, unix ms
-- ARGV[1] holder      str     names the process
-- ARGV[2] lease       int     ms after which the turn of a vanished holder may be taken
-- ARGV[3] longest     int     ms; a longer wait comes from a clock that was set back, and counts for nothing
-- Returns ms until the turn may be taken, 0 if the caller has it now
-- Errors  BADARG the lease or the longest wait is no number; nothing written
-- Cost    O(1)
--@include clock
local lease, longest = tonumber(ARGV[2]), tonumber(ARGV[3])
if not lease or not longest then
  return redis.error_reply("BADARG lease or longest wait")
end
local now = now_ms()
local found = redis.call("HMGET", KEYS[1], "until", "next")
local wait = math.max((tonumber(found[1] or "") or 0) - now, (tonumber(found[2] or "") or 0) - now)
if wait > 0 and wait <= longest then
  return wait
end
redis.call("HSET", KEYS[1], "holder", ARGV[1], "until", string.format("%d", now + lease))
return 0

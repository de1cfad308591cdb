#!lua flags=allow-oom
-- end_turn: give the turn to send notices back.
-- KEYS[1] notices     HASH    holder and until (unix ms) of a turn that is taken; next -> when one may be, unix ms
-- ARGV[1] holder      str     who took it
-- ARGV[2] pause       int     ms until the next turn
-- Returns 1, or 0 if somebody else has the turn by now
-- Errors  BADARG the pause is no number; nothing written
-- Cost    O(1)
--@include clock
local pause = tonumber(ARGV[2])
if not pause then
  return redis.error_reply("BADARG pause")
end
if redis.call("HGET", KEYS[1], "holder") ~= ARGV[1] then
  return 0
end
redis.call("HDEL", KEYS[1], "holder", "until")
redis.call("HSET", KEYS[1], "next", string.format("%d", now_ms() + pause))
return 1

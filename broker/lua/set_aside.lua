#!lua
-- set_aside: keep events that can't become messages, with the reason.
-- KEYS[1] aside       ZSET  source and event -> when, unix ms
-- KEYS[2] events      HASH  source and event -> evidence and fields, packed
-- ARGV[1] most        int   how many are kept; beyond it the oldest go
-- ARGV[2..] event     str   source and event, and what is kept of it, in turn
-- Returns how many went to make room
-- Errors  BADARG no bound, or no pairs; nothing written
-- Cost    O(log N) an event, N kept
--@include clock
local most = tonumber(ARGV[1])
if not most or #ARGV % 2 == 0 then
  return redis.error_reply("BADARG pairs")
end
local now = now_ms()
for i = 2, #ARGV, 2 do
  if redis.call("HSETNX", KEYS[2], ARGV[i], ARGV[i + 1]) == 1 then
    redis.call("ZADD", KEYS[1], now, ARGV[i])
  end
end
local over = redis.call("ZCARD", KEYS[1]) - most
local gone = over > 0 and redis.call("ZRANGE", KEYS[1], 0, over - 1) or {}
for _, name in ipairs(gone) do
  redis.call("ZREM", KEYS[1], name)
  redis.call("HDEL", KEYS[2], name)
end
return #gone

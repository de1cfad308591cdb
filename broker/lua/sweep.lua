#!lua flags=allow-oom
-- sweep: drop the oldest dead letters beyond their retention, a bounded part a call.
-- KEYS[1] dead        ZSET    id -> time of death, unix ms
-- KEYS[2] dead messages HASH  id -> evidence and message, packed
-- ARGV[1] age         int     ms since death, by the server's clock
-- ARGV[2] count       int     the newest to keep, whatever the age of the others; -1 for any number
-- ARGV[3] limit       int     the most letters to drop in this call
-- Returns the number dropped; less than the limit when nothing is left
-- Errors  none of its own
-- Cost    O(limit log N), N dead
--@include clock
local limit, count = tonumber(ARGV[3]), tonumber(ARGV[2])
local gone = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", now_ms() - tonumber(ARGV[1]), "LIMIT", 0, limit)
local excess = count < 0 and 0 or math.min(limit, redis.call("ZCARD", KEYS[1]) - count)
if excess > #gone then
  gone = redis.call("ZRANGE", KEYS[1], 0, excess - 1)
end
for _, id in ipairs(gone) do
  redis.call("HDEL", KEYS[2], id)
  redis.call("ZREM", KEYS[1], id)
end
return #gone

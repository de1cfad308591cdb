#!lua flags=allow-oom
-- sweep: drop dead letters older than their retention, oldest first, a bounded part a call.
-- KEYS[1] dead        ZSET    id -> time of death, unix ms
-- KEYS[2] dead messages HASH  id -> evidence and message, packed
-- ARGV[1] age         int     ms since death, by the server's clock
-- ARGV[2] limit       int     the most letters to drop in this call
-- Returns the number dropped; less than the limit when nothing is left
-- Errors  none of its own
-- Cost    O(limit log N), N dead
--@include clock
local expired = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", now_ms() - tonumber(ARGV[1]), "LIMIT", 0, ARGV[2])
for _, id in ipairs(expired) do
  redis.call("HDEL", KEYS[2], id)
  redis.call("ZREM", KEYS[1], id)
end
return #expired

#!lua flags=allow-oom
-- lapse: free deduplication keys whose time is over, a bounded part a call.
-- KEYS[1] lapsing     ZSET    deduplication key -> when it is free again, unix ms
-- KEYS[2] dedup       HASH    deduplication key -> message id
-- ARGV[1] limit       int     the most keys to free in this call
-- Returns the number freed; less than the limit when nothing is left
-- Errors  none of its own
-- Cost    O(limit log N), N keys with a time
--@include clock
local lapsed = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", now_ms(), "LIMIT", 0, ARGV[1])
for _, key in ipairs(lapsed) do
  redis.call("HDEL", KEYS[2], key)
  redis.call("ZREM", KEYS[1], key)
end
return #lapsed

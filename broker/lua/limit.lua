#!lua flags=allow-oom
-- limit: set or lift a queue's rate and global concurrency at run time.
-- KEYS[1] control      HASH
-- KEYS[2] wake         STREAM  every blocked consumer looks again
-- ARGV[1] concurrency  int     the most entries in flight over all workers; "" lifts it
-- ARGV[2] rate         int     jobs a period; "" lifts it
-- ARGV[3] period       int     ms
-- Returns 1 if something changed; a rate that stays keeps its bucket
-- Errors  none of its own
-- Cost    O(C), C consumers
--@include wake
local before = redis.call("HMGET", KEYS[1], "global_concurrency", "rate", "rate_period")
local period = ARGV[2] ~= "" and ARGV[3] or ""
if (before[1] or "") == ARGV[1] and (before[2] or "") == ARGV[2] and (before[3] or "") == period then
  return 0
end
redis.call("HDEL", KEYS[1], "global_concurrency", "rate", "rate_period")
if (before[2] or "") ~= ARGV[2] or (before[3] or "") ~= period then
  redis.call("HDEL", KEYS[1], "tokens", "tokens_at")
end
if ARGV[1] ~= "" then
  redis.call("HSET", KEYS[1], "global_concurrency", ARGV[1])
end
if ARGV[2] ~= "" then
  redis.call("HSET", KEYS[1], "rate", ARGV[2], "rate_period", period)
end
signal_all(KEYS[2])
return 1

#!lua flags=allow-oom
-- limit: set or lift a queue's rate and global concurrency at run time.
-- KEYS[1] control      HASH
-- KEYS[2] wake         STREAM  every blocked consumer looks again
-- ARGV[1] concurrency  int     the most entries in flight over all workers; "" lifts it
-- ARGV[2] rate         int     jobs a period; "" lifts it
-- ARGV[3] period       int     ms
-- Returns 1
-- Errors  none of its own
-- Cost    O(C), C consumers
--@include wake
redis.call("HDEL", KEYS[1], "global_concurrency", "rate", "rate_period", "tokens", "tokens_at")
if ARGV[1] ~= "" then
  redis.call("HSET", KEYS[1], "global_concurrency", ARGV[1])
end
if ARGV[2] ~= "" then
  redis.call("HSET", KEYS[1], "rate", ARGV[2], "rate_period", ARGV[3])
end
signal_all(KEYS[2])
return 1

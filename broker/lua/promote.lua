#!lua flags=allow-oom
-- promote: let a scheduled message run now.
-- KEYS[1] scheduled   ZSET    id -> due time, unix ms
-- KEYS[2] job prefix  prefix of the records, completed with the message id
-- KEYS[3] wake        STREAM
-- ARGV[1] id          str     of the message
-- Returns 1, or 0 if it is not scheduled; one whose time has come stays as it is
-- Errors  none of its own
-- Cost    O(log N), N scheduled
--@include clock
--@include wake
local due, now, job_prefix = redis.call("ZSCORE", KEYS[1], ARGV[1]), now_ms(), KEYS[2]
if not due then
  return 0
end
if tonumber(due) > now then
  local record = job_prefix .. ARGV[1]
  redis.call("ZADD", KEYS[1], now, ARGV[1])
  if redis.call("HEXISTS", record, "due") == 1 then
    redis.call("HSET", record, "due", string.format("%d", now))
  end
  signal(KEYS[3], 1)
end
return 1

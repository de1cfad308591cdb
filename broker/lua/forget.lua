#!lua flags=allow-oom
-- forget: drop the records of ended jobs beyond what is to be kept, oldest first, a bounded part a call.
-- KEYS[1] recent      ZSET    id -> when it ended, unix ms; of one state
-- KEYS[2] job prefix  prefix of the records, completed with the message id
-- ARGV[1] state       str     of that index
-- ARGV[2] count       int     the most records to keep; -1 for any number
-- ARGV[3] age         int     ms since the end after which none is kept; -1 for any age
-- ARGV[4] limit       int     the most records to drop in this call
-- Returns the number dropped; less than the limit when nothing is left
-- Errors  none of its own
-- Cost    O(limit log N), N records
--@include clock
--@include record
--@include forget
local now, count, age, limit = now_ms(), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local ended = {}
if age >= 0 then
  ended = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", now - age, "WITHSCORES", "LIMIT", 0, limit)
end
if #ended == 0 and count >= 0 then
  local excess = math.min(limit, redis.call("ZCARD", KEYS[1]) - count)
  ended = excess > 0 and redis.call("ZRANGE", KEYS[1], 0, excess - 1, "WITHSCORES") or {}
end
for i = 1, #ended, 2 do
  forget(KEYS[1], KEYS[2], ARGV[1], ended[i], tonumber(ended[i + 1]), now)
end
return #ended / 2

#!lua flags=allow-oom
-- purge: drop messages that are scheduled, ready or in flight, a bounded part a call.
-- KEYS[1] scheduled   ZSET    id -> due time, unix ms
-- KEYS[2] messages    HASH    id -> the entry's fields, packed
-- KEYS[3] dedup       HASH    deduplication key -> message id
-- KEYS[4] job prefix  prefix of the records, completed with the message id
-- KEYS[5] outbox      STREAM  letters: the ends of flows' messages
-- KEYS[6] lapsing     ZSET    deduplication key -> when it is free again, unix ms; of those with a ttl
-- KEYS[7..] ready     STREAM  one a level, lowest first
-- ARGV[1] limit       int     the most messages to drop from each place in this call
-- Returns the number dropped; 0 when nothing is left
-- Errors  none of its own
-- Cost    O(limit)
--@include record
--@include fields
--@include outbox
local limit, dropped, job_prefix = tonumber(ARGV[1]), 0, KEYS[4]
local keys = { dedup = KEYS[3], lapsing = KEYS[6], outbox = KEYS[5], letters = {} }

local function forget(id)
  local record = job_prefix .. id
  local prior = redis.call("HMGET", record, "dedup", "flow")
  release_deduplication(keys, prior[1] or "", id)
  tell_flow(keys, prior[2], "purged", "", "purged")
  redis.call("DEL", record)
  dropped = dropped + 1
end

for _, id in ipairs(redis.call("ZRANGE", KEYS[1], 0, limit - 1)) do
  redis.call("HDEL", KEYS[2], id)
  redis.call("ZREM", KEYS[1], id)
  forget(id)
end
for i = 7, #KEYS do
  for _, entry in ipairs(redis.call("XRANGE", KEYS[i], "-", "+", "COUNT", limit)) do
    redis.pcall("XACK", KEYS[i], "workers", entry[1])
    redis.call("XDEL", KEYS[i], entry[1])
    forget(field(entry[2], "id") or "")
  end
end
return dropped

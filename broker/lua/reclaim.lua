#!lua flags=allow-oom
-- reclaim: take deliveries whose lease has expired from their owners, one level, a bounded part a call.
-- KEYS[1] dead        ZSET    id -> time of death, unix ms
-- KEYS[2] dead messages HASH  id -> evidence and message, packed
-- KEYS[3] wake        STREAM
-- KEYS[4] dedup       HASH    deduplication key -> message id
-- KEYS[5] job prefix  prefix of the records, completed with the message id
-- KEYS[6] ready       STREAM  of this level
-- ARGV[1] lease       int     ms without renewal after which a delivery has no owner
-- ARGV[2] max deliveries int  an entry delivered so often is buried, not released
-- ARGV[3] limit       int     the most entries to take in this call
-- ARGV[4] cursor      id      where to go on; 0-0 to begin
-- ARGV[5] level       int     of the ready stream, kept with what is buried
-- Returns {next cursor, released, buried}; the scan is over at cursor 0-0
-- Errors  none of its own
-- Cost    O(limit), at most ten times as many pending entries looked at
--@include clock
--@include wake
--@include record
--@include bury
--@include fields
--@include hand_back
local ready = KEYS[6]
local taken = redis.pcall("XAUTOCLAIM", ready, "workers", "~released", ARGV[1], ARGV[4], "COUNT", ARGV[3], "JUSTID")
if taken.err then
  if string.find(taken.err, "NOGROUP", 1, true) then
    return { "0-0", 0, 0 }
  end
  return taken
end
local entries = {}
for _, id in ipairs(taken[2]) do
  entries[#entries + 1] = redis.call("XPENDING", ready, "workers", id, id, 1)[1]
end
local keys = { dead = KEYS[1], dead_messages = KEYS[2], dedup = KEYS[4], job_prefix = KEYS[5], ready = ready }
local released, buried = hand_back(keys, entries, tonumber(ARGV[2]), ARGV[5])
signal(KEYS[3], released)
return { taken[1], released, buried }

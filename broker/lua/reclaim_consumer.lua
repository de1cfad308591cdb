#!lua flags=allow-oom
-- reclaim_consumer: take what a vanished consumer held, without waiting for its leases; one level.
-- KEYS[1] dead        ZSET    id -> time of death, unix ms
-- KEYS[2] dead messages HASH  id -> evidence and message, packed
-- KEYS[3] wake        STREAM
-- KEYS[4] dedup       HASH    deduplication key -> message id
-- KEYS[5] job prefix  prefix of the records, completed with the message id
-- KEYS[6] events      STREAM
-- KEYS[7] dead records ZSET   id -> when it ended, unix ms
-- KEYS[8] cancelled   ZSET    id -> when it ended, unix ms
-- KEYS[9] outbox      STREAM  letters: the ends of flows' messages
-- KEYS[10] lapsing   ZSET    deduplication key -> when it is free again, unix ms; of those with a ttl
-- KEYS[11] ready       STREAM  of this level
-- ARGV[1] consumer    str     whose process no longer exists
-- ARGV[2] max deliveries int  an entry delivered so often is buried, not released
-- ARGV[3] limit       int     the most entries to take in this call
-- ARGV[4] level       int     of the ready stream, kept with what is buried
-- ARGV[5..] actor     str     of whose dead somebody is told: what is delivered too often of them waits for its lease
-- Returns {released, buried or cancelled}; both 0 when the consumer holds nothing more
-- Errors  none of its own
-- Cost    O(limit)
--@include clock
--@include wake
--@include record
--@include fields
--@include bury
--@include lost
--@include outbox
--@include hand_back
local ready = KEYS[11]
local entries = redis.pcall("XPENDING", ready, "workers", "-", "+", ARGV[3], ARGV[1])
if entries.err then
  if string.find(entries.err, "NOGROUP", 1, true) then
    return { 0, 0 }
  end
  return entries
end
local keys = {
  dead = KEYS[1], dead_messages = KEYS[2], dedup = KEYS[4], job_prefix = KEYS[5],
  events = KEYS[6], dead_records = KEYS[7], cancelled = KEYS[8], outbox = KEYS[9], letters = {}, ready = ready,
  lapsing = KEYS[10],
}
local told_of = {}
for i = 5, #ARGV do
  told_of[ARGV[i]] = true
end
local function leave() end
local released, buried = hand_back(keys, entries, tonumber(ARGV[2]), ARGV[4], told_of, leave)
if released + buried > 0 then  -- what is buried leaves room under a global concurrency
  signal_all(KEYS[3])  -- one signal could go to a reader that has just died as well
end
return { released, buried }

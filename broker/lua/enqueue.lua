#!lua
-- enqueue: make messages of one queue ready to run.
-- KEYS[1] wake        STREAM  signals for consumers that do not block on the levels
-- KEYS[2] control     HASH    present when the queue is paused, limited or closed
-- KEYS[3] dedup       HASH    deduplication key -> message id
-- KEYS[4] lapsing     ZSET    deduplication key -> when it is free again, unix ms; of those with a ttl
-- KEYS[5] job prefix  prefix of the records, completed with the message id
-- KEYS[6] events      STREAM
-- KEYS[7..] ready     STREAM  of the levels that the messages go to; of a bounded queue then the other levels
--           and last the scheduled ZSET
-- ARGV[1] token       str     names this attempt: a repeat with the same token changes nothing
-- ARGV[2] most        int     messages that the queue may hold; 0: any number
-- ARGV[3] inner       0|1     a job sends them: a closed queue takes that
-- ARGV[4..] message   msgpack [id, stream from 0, its level, claim, successor, recorded, [field, value, ...]]
-- Returns for each message the id it is known by: its own, or the holder of its deduplication key
-- Errors  BADARG no such stream, or fields that are no pairs; FULL the depth; CLOSED; nothing written
-- Cost    O(1) a message, and O(levels) for a bounded queue
--@include clock
--@include bounds
--@include fields
--@include wake
--@include record
--@include admit
--@include append
--@include room
--@include closed
local keys = { dedup = KEYS[3], lapsing = KEYS[4], job_prefix = KEYS[5], events = KEYS[6] }
local token, job_prefix = ARGV[1], KEYS[5]
local most, inner = tonumber(ARGV[2]), ARGV[3] == "1"
local messages = {}
for i = 4, #ARGV do
  local message = cmsgpack.unpack(ARGV[i])
  if not KEYS[7 + message[2]] then
    return redis.error_reply("BADARG stream " .. tostring(message[2]))
  end
  local parts = #message[7]
  if not are_pairs(parts) then
    return redis.error_reply("BADARG fields " .. parts)
  end
  messages[i - 3] = message
end
local gated = redis.call("EXISTS", KEYS[2]) == 1
if gated and not inner and refuses(KEYS[2], token, job_prefix, messages[1] and messages[1][1]) then
  return redis.error_reply("CLOSED")
end
if most > 0 then
  local full, depth = is_full(most, KEYS[#KEYS], { unpack(KEYS, 7, #KEYS - 1) }, job_prefix, token, messages, 5)
  if full then
    return redis.error_reply("FULL " .. depth)
  end
end

local known, added = {}, 0
for i, message in ipairs(messages) do
  local id, new = admit(keys, token, message[1], message[4], message[5])
  known[i] = id
  if new then
    append(keys, KEYS[7 + message[2]], message[3], id, message[6], message[7])
    added = added + 1
  end
end
if gated then
  signal(KEYS[1], added)
end
return known

#!lua
-- take_events: make the messages of events ready, each once though the events be handed over again.
-- KEYS[1] taken       ZSET    event and actor -> when it was taken, unix ms; until the event is acknowledged
-- KEYS[2] wake        STREAM  signals for consumers that do not block on the levels
-- KEYS[3] control     HASH    present when the queue is paused, limited or closed
-- KEYS[4] dedup       HASH    deduplication key -> message id
-- KEYS[5] lapsing     ZSET    deduplication key -> when it is free again, unix ms; of those with a ttl
-- KEYS[6] job prefix  prefix of the records, completed with the message id
-- KEYS[7] events      STREAM  of the queue
-- KEYS[8] scheduled   ZSET    counted only
-- KEYS[9..] ready     STREAM  one a level, lowest first
-- ARGV[1] deadline    int     unix ms; later the events may be somebody else's
-- ARGV[2] token       str     names this attempt
-- ARGV[3..] message   msgpack [event and actor, id, level, claim, recorded, [field, value, ...]]; claim as for enqueue
-- Returns how many messages of the queue wait now, or -1 if it is too late and nothing was written
-- Errors  BADARG no such level, or fields that are no pairs; CLOSED; nothing written
-- Cost    O(log N) a message, N taken
--@include bounds
--@include clock
--@include fields
--@include wake
--@include record
--@include admit
--@include append
local deadline, token = tonumber(ARGV[1]), ARGV[2]
local keys = { dedup = KEYS[4], lapsing = KEYS[5], job_prefix = KEYS[6], events = KEYS[7] }
local messages = {}
for i = 3, #ARGV do
  local message = cmsgpack.unpack(ARGV[i])
  if not KEYS[9 + message[3]] then
    return redis.error_reply("BADARG level " .. tostring(message[3]))
  end
  local parts = #message[6]
  if not are_pairs(parts) then
    return redis.error_reply("BADARG fields " .. parts)
  end
  messages[i - 2] = message
end
local now = now_ms()
if not deadline or now > deadline then
  return -1
end
if redis.call("HEXISTS", KEYS[3], "closed") == 1 then
  return redis.error_reply("CLOSED")
end

local added = 0
for _, message in ipairs(messages) do
  if redis.call("ZADD", KEYS[1], "NX", now, message[1]) == 1 then
    local id, new = admit(keys, token, message[2], message[4], false)
    if new then
      append(keys, KEYS[9 + message[3]], message[3], id, message[5], message[6])
      added = added + 1
    end
  end
end
signal_if_gated(KEYS[3], KEYS[2], added)

local waiting = redis.call("ZCARD", KEYS[8])
for i = 9, #KEYS do
  waiting = waiting + redis.call("XLEN", KEYS[i])
end
return waiting

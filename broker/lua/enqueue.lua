#!lua
-- enqueue: make messages of one queue ready to run.
-- KEYS[1] wake        STREAM  signals for consumers that do not block on the levels
-- KEYS[2] control     HASH    present when the queue is paused or limited
-- KEYS[3] dedup       HASH    deduplication key -> message id
-- KEYS[4] job prefix  prefix of the records, completed with the message id
-- KEYS[5..] ready     STREAM  of the levels that the messages go to
-- ARGV[1] token       str     names this attempt: a repeat with the same token changes nothing
-- ARGV[2..] message   msgpack [id, stream from 0, deduplication key or "", successor, [field, value, ...]]
-- Returns for each message the id it is known by: its own, or the holder of its deduplication key
-- Errors  BADARG no such stream, or fields that are no pairs; nothing written
-- Cost    O(1) a message
--@include bounds
--@include wake
--@include record
--@include admit
local token, job_prefix = ARGV[1], KEYS[4]
local messages = {}
for i = 2, #ARGV do
  local message = cmsgpack.unpack(ARGV[i])
  if not KEYS[5 + message[2]] then
    return redis.error_reply("BADARG stream " .. tostring(message[2]))
  end
  local parts = #message[5]
  if parts == 0 or parts % 2 == 1 or parts > MOST_PARTS then
    return redis.error_reply("BADARG fields " .. parts)
  end
  messages[i - 1] = message
end

local known, added = {}, 0
for i, message in ipairs(messages) do
  local id, new = admit(job_prefix, KEYS[3], token, message[1], message[3], message[4])
  known[i] = id
  if new then
    redis.call("XADD", KEYS[5 + message[2]], "*", unpack(message[5]))
    added = added + 1
  end
end
signal_if_gated(KEYS[2], KEYS[1], added)
return known

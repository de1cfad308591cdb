#!lua
-- receive: make the messages of a letter ready, or schedule them; those that are known are passed over.
-- KEYS[1] scheduled   ZSET    id -> due time, unix ms
-- KEYS[2] messages    HASH    id -> the entry's fields, packed
-- KEYS[3] job prefix  prefix of the records, completed with the message id
-- KEYS[4] events      STREAM
-- KEYS[5] control     HASH    present when the queue is paused or limited
-- KEYS[6] wake        STREAM
-- KEYS[7..] ready     STREAM  one a level, lowest first
-- ARGV[1] parcel      msgpack [packed message, ...], as make_ready has them
-- Returns how many are new
-- Errors  none of its own
-- Cost    O(log N) a message, N scheduled
--@include clock
--@include fields
--@include wake
--@include record
--@include make_ready
local keys = {
  scheduled = KEYS[1], messages = KEYS[2], guarded = true,
  job_prefix = KEYS[3], events = KEYS[4],
  ready = function(level)
    level = math.min(level, #KEYS - 7)
    return KEYS[7 + level], level
  end,
}
local ready, scheduled, now = 0, 0, now_ms()

for _, packed in ipairs(cmsgpack.unpack(ARGV[1])) do
  local message = cmsgpack.unpack(packed)
  if message[5] > 0 then
    scheduled = scheduled + make_ready(keys, message, now + message[5])
  else
    ready = ready + make_ready(keys, message)
  end
end
if scheduled > 0 then
  signal(KEYS[6], 1)
end
signal_if_gated(KEYS[5], KEYS[6], ready)
return ready + scheduled

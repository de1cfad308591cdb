#!lua
-- receive: make the messages of a letter ready, or schedule them; those that are known are passed over.
-- KEYS[1] scheduled   ZSET    id -> due time, unix ms
-- KEYS[2] messages    HASH    id -> the entry's fields, packed
-- KEYS[3] job prefix  prefix of the records, completed with the message id
-- KEYS[4] control     HASH    present when the queue is paused or limited
-- KEYS[5] wake        STREAM
-- KEYS[6..] ready     STREAM  one a level, lowest first
-- ARGV[1] parcel      msgpack [packed message, ...], as make_ready has them
-- Returns how many are new
-- Errors  none of its own
-- Cost    O(log N) a message, N scheduled
--@include clock
--@include wake
--@include make_ready
local keys = {
  job_prefix = KEYS[3],
  ready = function(level) return KEYS[6 + math.min(level, #KEYS - 6)] end,
}
local ready, scheduled, now = 0, 0, now_ms()

local function put_aside(message)
  local record, fields = keys.job_prefix .. message[3], message[7]
  if redis.call("HSETNX", record, "token", "flow") == 0 then
    return 0
  end
  redis.call("HSET", record, "flow", message[1])
  if message[4] > 0 then
    fields[#fields + 1], fields[#fields + 2] = "level", tostring(message[4])
  end
  redis.call("HSET", KEYS[2], message[3], cmsgpack.pack(fields))
  redis.call("ZADD", KEYS[1], now + message[5], message[3])
  return 1
end

for _, packed in ipairs(cmsgpack.unpack(ARGV[1])) do
  local message = cmsgpack.unpack(packed)
  if message[5] > 0 then
    scheduled = scheduled + put_aside(message)
  else
    ready = ready + make_ready(keys, message)
  end
end
if scheduled > 0 then
  signal(KEYS[5], 1)
end
signal_if_gated(KEYS[4], KEYS[5], ready)
return ready + scheduled

#!lua
-- fire: enqueue the message of a schedule's fire, once over all schedulers and for ever.
-- KEYS[1] schedules   HASH    name -> definition
-- KEYS[2] state       HASH    what:name -> value
-- KEYS[3] wake        STREAM  signals for consumers that do not block on the levels
-- KEYS[4] control     HASH    present when the queue is paused, limited or closed
-- KEYS[5] dedup       HASH    deduplication key -> message id
-- KEYS[6] lapsing     ZSET    deduplication key -> when it is free again, unix ms; of those with a ttl
-- KEYS[7] job prefix  prefix of the records, completed with the message id
-- KEYS[8] events      STREAM
-- KEYS[9] ready       STREAM  of the message's level
-- ARGV[1] name        str
-- ARGV[2] definition  str     what the scheduler read: it must still hold
-- ARGV[3] at          int     the fire's time, unix ms
-- ARGV[4] overlap     str     allow, skip or queue_one
-- ARGV[5] token       str     names this attempt: a repeat with the same token changes nothing
-- ARGV[6] id          str     of the message
-- ARGV[7] how         msgpack [its level, claim, recorded], as for enqueue
-- ARGV[8..] fields    field, value, ... of the entry
-- Returns fired, again (it was made before), changed (another definition holds), paused,
--         skipped or waiting (the last fire's message has not ended)
-- Errors  BADARG fields that are no pairs; nothing written
-- Cost    O(1)
--@include bounds
--@include clock
--@include fields
--@include wake
--@include record
--@include admit
--@include append
--@include unfinished
local name, at, overlap, job_prefix = ARGV[1], tonumber(ARGV[3]), ARGV[4], KEYS[7]
local parts = #ARGV - 7
if not at or not are_pairs(parts) then
  return redis.error_reply("BADARG fields " .. parts)
end
if redis.call("HGET", KEYS[1], name) ~= ARGV[2] then
  return "changed"
end
local state = redis.call("HMGET", KEYS[2], "mark:" .. name, "last:" .. name, "waiting:" .. name, "paused:" .. name)
local mark, waiting = tonumber(state[1] or "0"), tonumber(state[3] or "")
local waited = at == waiting
if at <= mark and not waited then
  -- The reply to this very attempt may have been lost.
  return redis.call("HGET", job_prefix .. ARGV[6], "token") == ARGV[5] and "fired" or "again"
end
if state[4] or redis.call("HEXISTS", KEYS[4], "closed") == 1 then
  return "paused"
end
if not waited then
  redis.call("HSET", KEYS[2], "mark:" .. name, ARGV[3])
end
if overlap ~= "allow" and state[2] and unfinished(job_prefix .. state[2]) then
  if waited then
    return "waiting"
  end
  if overlap == "queue_one" and not waiting then
    redis.call("HSET", KEYS[2], "waiting:" .. name, ARGV[3])
    return "waiting"
  end
  redis.call("HINCRBY", KEYS[2], "skipped:" .. name, 1)
  return "skipped"
end
local keys = { dedup = KEYS[5], lapsing = KEYS[6], job_prefix = job_prefix, events = KEYS[8] }
local how = cmsgpack.unpack(ARGV[7])
local id, new = admit(keys, ARGV[5], ARGV[6], how[2], false)
if new then
  append(keys, KEYS[9], how[1], id, how[3], { unpack(ARGV, 8) })
  signal_if_gated(KEYS[4], KEYS[3], 1)
end
redis.call("HSET", KEYS[2], "last:" .. name, id, "fired:" .. name, ARGV[3])
redis.call("HDEL", KEYS[2], "outcome:" .. name)
if waited then
  redis.call("HDEL", KEYS[2], "waiting:" .. name)
end
return new and "fired" or "again"

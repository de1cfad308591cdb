#!lua flags=allow-oom
-- cancel: end a job that waits, or ask the worker that runs it to end it.
-- KEYS[1] scheduled   ZSET    id -> due time, unix ms
-- KEYS[2] messages    HASH    id -> the entry's fields, packed
-- KEYS[3] dedup       HASH    deduplication key -> message id
-- KEYS[4] job prefix  prefix of the records, completed with the message id
-- KEYS[5] events      STREAM
-- KEYS[6] cancelled   ZSET    id -> when it ended, unix ms
-- KEYS[7] control     HASH    present when the queue is paused or limited
-- KEYS[8] wake        STREAM
-- KEYS[9] outbox      STREAM  letters: the ends of flows' messages
-- KEYS[10] lapsing    ZSET    deduplication key -> when it is free again, unix ms; of those with a ttl
-- KEYS[11..] ready    STREAM  one a level, lowest first
-- ARGV[1] id          str     of the message
-- ARGV[2] channel     str     on which workers hear of it
-- Returns {what, line, due}: cancelled, requested (it runs), ended (before this) or unknown, also for a step of a flow
--         that keeps no record, of which nobody knows where it lies: whoever runs it is asked to end it; the
--         line in which it waits for a key or "", when it would have come, unix ms, or 0: it is in that line still
-- Errors  none of its own
-- Cost    O(log N), N scheduled or pending
--@include clock
--@include fields
--@include wake
--@include record
--@include outbox
--@include located
local id, job_prefix = ARGV[1], KEYS[4]
local record = job_prefix .. id
local prior = redis.call("HMGET", record, "token", "state", "entry", "line", "flow")
if not prior[1] then
  return { "unknown", "", 0 }
elseif prior[2] then
  return { "ended", "", 0 }
end
local keys = {
  dedup = KEYS[3], lapsing = KEYS[10], job_prefix = job_prefix, events = KEYS[5], recent = KEYS[6],
  outbox = KEYS[9], letters = {},
}

local function finish_as_cancelled(fields)
  local actor, at = field(fields, "actor") or "", field(fields, "at") or ""
  local place = finish(keys, id, "cancelled", now_ms(), { "actor", actor, "queued", at })
  tell_flow(keys, place, "cancelled", "", "cancelled")
end

local due = redis.call("ZSCORE", KEYS[1], id)
if due then
  redis.call("ZREM", KEYS[1], id)
  local ok, fields = pcall(cmsgpack.unpack, redis.call("HGET", KEYS[2], id) or "")
  redis.call("HDEL", KEYS[2], id)
  finish_as_cancelled(ok and type(fields) == "table" and fields or {})
  if redis.call("HEXISTS", record, "state") == 1 then
    return { "cancelled", prior[4] or "", tonumber(due) }
  end
  -- Another copy of it waits or runs.
end

local function request()
  redis.call("PUBLISH", ARGV[2], id)  -- first: it may be denied
  redis.call("HSET", record, "cancel", "1")
end

if prior[5] and not prior[3] then
  request()
  return { "unknown", "", 0 }
end

local ready, entry, found, delivery = located(prior[3], function(level) return KEYS[11 + level] end)
if not found then
  return { "unknown", "", 0 }
end
if delivery and delivery[2] ~= "~released" then
  request()
  return { "requested", "", 0 }
end
finish_as_cancelled(found[2])
redis.pcall("XACK", ready, "workers", entry)
redis.call("XDEL", ready, entry)
signal_if_gated(KEYS[7], KEYS[8], 1)
return { "cancelled", prior[4] or "", 0 }

#!lua
-- schedule: put messages of one queue aside until their time.
-- KEYS[1] scheduled   ZSET    id -> due time, unix ms
-- KEYS[2] messages    HASH    id -> the entry's fields, packed
-- KEYS[3] wake        STREAM  one consumer is told when the earliest time changes
-- KEYS[4] dedup       HASH    deduplication key -> message id
-- KEYS[5] lapsing     ZSET    deduplication key -> when it is free again, unix ms; of those with a ttl
-- KEYS[6] job prefix  prefix of the records, completed with the message id
-- KEYS[7] events      STREAM
-- KEYS[8] cancelled   ZSET    id -> when it ended, unix ms; for a message that is replaced
-- KEYS[9] control     HASH    closed
-- KEYS[10..] ready    STREAM  of a bounded queue: one a level
-- ARGV[1] token       str     names this attempt: a repeat with the same token changes nothing
-- ARGV[2] delay       int     ms from now, by the server's clock
-- ARGV[3] most        int     messages that the queue may hold; 0: any number
-- ARGV[4] inner       0|1     a job sends them: a closed queue takes that
-- ARGV[5..] message   msgpack [id, claim, successor, recorded, replaces, actor, packed fields]
-- Returns for each message the id it is known by: its own, or the holder of its deduplication key
-- Errors  BADARG the delay is no number; FULL the depth; CLOSED; nothing written
-- Cost    O(log N) a message, N scheduled, and O(levels) for a bounded queue
--@include clock
--@include wake
--@include record
--@include admit
--@include room
--@include closed
local keys = { dedup = KEYS[4], lapsing = KEYS[5], job_prefix = KEYS[6], events = KEYS[7], recent = KEYS[8] }
local token, delay, job_prefix = ARGV[1], tonumber(ARGV[2]), KEYS[6]
if not delay or not (delay > -(2 ^ 53) and delay < 2 ^ 53) then
  return redis.error_reply("BADARG delay")
end
local most, inner = tonumber(ARGV[3]), ARGV[4] == "1"
local messages = {}
for i = 5, #ARGV do
  messages[i - 4] = cmsgpack.unpack(ARGV[i])
end
if not inner and refuses(KEYS[9], token, job_prefix, messages[1] and messages[1][1]) then
  return redis.error_reply("CLOSED")
end
if most > 0 then
  local full, depth = is_full(most, KEYS[1], { unpack(KEYS, 10) }, job_prefix, token, messages, 3)
  if full then
    return redis.error_reply("FULL " .. depth)
  end
end
local now = now_ms()
local due = now + delay
local head = redis.call("ZRANGE", KEYS[1], 0, 0, "WITHSCORES")

-- The scheduled holder of the key makes room: only the latest of a burst runs.
local function displace(claim, id)
  if redis.call("HGET", job_prefix .. id, "token") == token then
    return  -- a repeat: what holds the key now came later
  end
  local holder = holder_of(keys, claim[1])
  if holder and holder ~= id and redis.call("ZREM", KEYS[1], holder) == 1 then
    redis.call("HDEL", KEYS[2], holder)
    finish(keys, holder, "cancelled", now, { "actor", "" }, "replaced by " .. id)
    redis.call("HDEL", KEYS[4], claim[1])
  end
end

local known, added = {}, 0
for i, message in ipairs(messages) do
  if message[5] and message[2] then
    displace(message[2], message[1])
  end
  local id, new = admit(keys, token, message[1], message[2], message[3])
  known[i] = id
  if new then
    local record = job_prefix .. id
    redis.call("HSET", KEYS[2], id, message[7])
    if redis.call("ZADD", KEYS[1], due, id) == 0 then  -- a successor takes the other copy's place
      drop_copy(record, redis.call("HGET", record, "others"))
    end
    if message[4] then
      redis.call("HSET", record, "entry", "", "due", string.format("%d", due))
      tell(KEYS[7], "scheduled", id, message[6])
    end
    added = added + 1
  end
end
if added > 0 and (not head[2] or due < tonumber(head[2])) then
  signal(KEYS[3], 1)
end
return known

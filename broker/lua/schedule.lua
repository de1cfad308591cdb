#!lua
-- schedule: put messages of one queue aside until their time.
-- KEYS[1] scheduled   ZSET    id -> due time, unix ms
-- KEYS[2] messages    HASH    id -> the entry's fields, packed
-- KEYS[3] wake        STREAM  one consumer is told when the earliest time changes
-- KEYS[4] dedup       HASH    deduplication key -> message id
-- KEYS[5] job prefix  prefix of the records, completed with the message id
-- ARGV[1] token       str     names this attempt: a repeat with the same token changes nothing
-- ARGV[2] delay       int     ms from now, by the server's clock
-- ARGV[3..] message   msgpack [id, deduplication key or "", successor, packed fields]
-- Returns for each message the id it is known by: its own, or the holder of its deduplication key
-- Errors  BADARG the delay is no number; nothing written
-- Cost    O(log N) a message, N scheduled
--@include clock
--@include wake
--@include record
--@include admit
local token, delay, job_prefix = ARGV[1], tonumber(ARGV[2]), KEYS[5]
if not delay or not (delay > -(2 ^ 53) and delay < 2 ^ 53) then
  return redis.error_reply("BADARG delay")
end
local messages = {}
for i = 3, #ARGV do
  messages[i - 2] = cmsgpack.unpack(ARGV[i])
end
local due = now_ms() + delay
local head = redis.call("ZRANGE", KEYS[1], 0, 0, "WITHSCORES")

local known, added = {}, 0
for i, message in ipairs(messages) do
  local id, new = admit(job_prefix, KEYS[4], token, message[1], message[2], message[3])
  known[i] = id
  if new then
    redis.call("HSET", KEYS[2], id, message[4])
    if redis.call("ZADD", KEYS[1], due, id) == 0 then  -- a successor takes the other copy's place
      drop_copy(job_prefix .. id, redis.call("HGET", job_prefix .. id, "others"))
    end
    added = added + 1
  end
end
if added > 0 and (not head[2] or due < tonumber(head[2])) then
  signal(KEYS[3], 1)
end
return known

#!lua
-- redrive: move dead letters back to their queue.
-- KEYS[1] dead        ZSET    id -> time of death, unix ms
-- KEYS[2] dead messages HASH  id -> evidence and message, packed
-- KEYS[3] control     HASH    present when the queue is paused or limited
-- KEYS[4] wake        STREAM
-- KEYS[5] dedup       HASH    deduplication key -> message id
-- KEYS[6] job prefix  prefix of the records, completed with the message id
-- KEYS[7] events      STREAM
-- KEYS[8] dead records ZSET   id -> when it ended, unix ms
-- KEYS[9] lapsing     ZSET    deduplication key -> when it is free again, unix ms; of those with a ttl
-- KEYS[10..] ready     STREAM  one a level, lowest first
-- ARGV[1..] letter    msgpack [key among the dead, message id or "", level, deduplication key or "", [field, value, ...],
--           its place in a flow, or "" where it can't be read: the record's stays]
-- Returns the number moved; a letter that is no longer there is passed over, so a repeat moves nothing twice
-- Errors  BADARG a level without a stream, or fields that are no entry or more than one may have; nothing written
-- Cost    O(log N) a letter, N dead
--@include bounds
--@include clock
--@include wake
--@include fields
--@include record
--@include admit
local letters, job_prefix = {}, KEYS[6]
local keys = { dedup = KEYS[5], lapsing = KEYS[9] }
for i = 1, #ARGV do
  letters[i] = cmsgpack.unpack(ARGV[i])
  if not KEYS[10 + letters[i][3]] then
    return redis.error_reply("BADARG level " .. tostring(letters[i][3]))
  end
  if not are_pairs(#letters[i][5]) then
    return redis.error_reply("BADARG fields of " .. letters[i][1])
  end
end

local moved = 0
for _, letter in ipairs(letters) do
  if redis.call("ZSCORE", KEYS[1], letter[1]) then
    local entry = redis.call("XADD", KEYS[10 + letter[3]], "*", unpack(letter[5]))
    redis.call("HDEL", KEYS[2], letter[1])
    redis.call("ZREM", KEYS[1], letter[1])
    if letter[2] ~= "" then
      local record = job_prefix .. letter[2]
      local prior = redis.call("HMGET", record, "token", "state", "dedup", "entry", "finished", "flow")
      local live = prior[1] and not prior[2]
      if live then  -- sent again since it died: two copies of it run
        redis.call("HINCRBY", record, "others", 1)
      else
        redis.call("DEL", record)
      end
      if not live or prior[1] == "" then  -- now somebody has enqueued it
        redis.call("HSET", record, "token", "redrive")
      end
      local place = letter[6] ~= "" and letter[6] or prior[6]
      if place then
        redis.call("HSET", record, "flow", place)
      end
      if prior[4] or prior[5] or not prior[1] then  -- one that died before its entry was noted has no entry
        redis.call("HSET", record, "entry", letter[3] .. ":" .. entry)
        tell(KEYS[7], "redriven", letter[2], field(letter[5], "actor"))
      end
      redis.call("ZREM", KEYS[8], letter[2])
      -- A younger message that holds the key keeps it: both run, as the operator asked.
      if letter[4] ~= "" and not (live and prior[3]) and not holder_of(keys, letter[4]) then
        hold(keys, { letter[4], 0 }, record, letter[2])
      end
    end
    moved = moved + 1
  end
end
signal_if_gated(KEYS[3], KEYS[4], moved)
return moved

#!lua
-- redrive: move dead letters back to their queue.
-- KEYS[1] dead        ZSET    id -> time of death, unix ms
-- KEYS[2] dead messages HASH  id -> evidence and message, packed
-- KEYS[3] control     HASH    present when the queue is paused or limited
-- KEYS[4] wake        STREAM
-- KEYS[5] job prefix  prefix of the records, completed with the message id
-- KEYS[6..] ready     STREAM  one a level, lowest first
-- ARGV[1..] letter    msgpack [key among the dead, message id or "", level, [field, value, ...]]
-- Returns the number moved; a letter that is no longer there is passed over, so a repeat moves nothing twice
-- Errors  BADARG a level without a stream; nothing written
-- Cost    O(log N) a letter, N dead
--@include wake
local letters, job_prefix = {}, KEYS[5]
for i = 1, #ARGV do
  letters[i] = cmsgpack.unpack(ARGV[i])
  if not KEYS[6 + letters[i][3]] then
    return redis.error_reply("BADARG level " .. tostring(letters[i][3]))
  end
end

local moved = 0
for _, letter in ipairs(letters) do
  if redis.call("ZSCORE", KEYS[1], letter[1]) then
    redis.call("XADD", KEYS[6 + letter[3]], "*", unpack(letter[4]))
    redis.call("HDEL", KEYS[2], letter[1])
    redis.call("ZREM", KEYS[1], letter[1])
    if letter[2] ~= "" then
      local record = job_prefix .. letter[2]
      redis.call("DEL", record)
      redis.call("HSET", record, "token", "redrive")
    end
    moved = moved + 1
  end
end
if moved > 0 and redis.call("EXISTS", KEYS[3]) == 1 then
  signal(KEYS[4], moved)
end
return moved

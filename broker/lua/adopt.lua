#!lua flags=allow-oom
-- adopt: take a dead letter over from another queue, which drops it afterwards.
-- KEYS[1] dead          ZSET  id -> time of death, unix ms
-- KEYS[2] dead messages HASH  id -> evidence and message, packed
-- ARGV[1] id            str   its id there
-- ARGV[2] died          int   unix ms
-- ARGV[3] queue         str   to which the message belongs; "" for this one
-- ARGV[4] letter        bytes as it lies there
-- Returns its id here; a repeat changes nothing
-- Errors  BADARG no letter; nothing written
-- Cost    O(log N), N dead
local QUEUE = 22  -- the part of the evidence; bury.lua writes it
local ok, parts = pcall(cmsgpack.unpack, ARGV[4])
if not ok or type(parts) ~= "table" or parts[QUEUE - 1] ~= "queue" then
  return redis.error_reply("BADARG letter")
end
parts[QUEUE] = ARGV[3]
local letter = cmsgpack.pack(parts)

local id, copies = ARGV[1], 0
local there = redis.call("HGET", KEYS[2], id)
while there and there ~= letter do  -- the letters of two queues, or of two deaths, keep apart
  copies = copies + 1
  id = ARGV[1] .. ":" .. copies
  there = redis.call("HGET", KEYS[2], id)
end
redis.call("HSET", KEYS[2], id, letter)
redis.call("ZADD", KEYS[1], ARGV[2], id)
return id

#!lua flags=no-writes
-- inspect: count a queue at one moment. No writes, so it answers on a full server and on a replica.
-- KEYS[1] scheduled   ZSET    id -> due time, unix ms
-- KEYS[2] dead        ZSET    id -> time of death, unix ms
-- KEYS[3] control     HASH    paused, closed
-- KEYS[4..] ready     STREAM  one a level
-- Returns {now, ready, scheduled, due, in flight, dead, since when the oldest waits or -1,
--          the oldest entry's time or -1, paused 0|1, consumers, closed 0|1}; times unix ms
-- Errors  none of its own
-- Cost    O(C + G + log N) a level, C consumers of the group, G groups of the stream (one),
--         N scheduled, or entries of the level
--@include clock
--@include fields
local now = now_ms()
local entries, in_flight, consumers = 0, 0, 0
local oldest_waiting, oldest_entry = math.huge, math.huge

local function made_at(entry)
  return entry and tonumber(string.match(entry[1], "^%d+")) or math.huge
end

for i = 4, #KEYS do
  entries = entries + redis.call("XLEN", KEYS[i])
  oldest_entry = math.min(oldest_entry, made_at(redis.call("XRANGE", KEYS[i], "-", "+", "COUNT", 1)[1]))

  -- Two kinds of entries wait: those that nobody was given yet, and those that were handed back.
  local after = "-"
  local groups = redis.pcall("XINFO", "GROUPS", KEYS[i])
  for _, group in ipairs(groups.err and {} or groups) do
    if field(group, "name") == "workers" then
      after = "(" .. field(group, "last-delivered-id")
    end
  end
  oldest_waiting = math.min(oldest_waiting, made_at(redis.call("XRANGE", KEYS[i], after, "+", "COUNT", 1)[1]))
  if after ~= "-" then
    local released = redis.call("XPENDING", KEYS[i], "workers", "-", "+", 1, "~released")
    oldest_waiting = math.min(oldest_waiting, made_at(released[1]))
  end

  local group = redis.pcall("XINFO", "CONSUMERS", KEYS[i], "workers")
  local of_level = 0
  for _, consumer in ipairs(group.err and {} or group) do
    if field(consumer, "name") ~= "~released" then
      of_level = of_level + 1
      in_flight = in_flight + field(consumer, "pending")
    end
  end
  consumers = math.max(consumers, of_level)
end

-- What is due waits as well, since its time.
local head = redis.call("ZRANGE", KEYS[1], 0, 0, "WITHSCORES")
if head[1] and tonumber(head[2]) <= now then
  oldest_waiting = math.min(oldest_waiting, tonumber(head[2]))
end

return {
  now,
  entries - in_flight,
  redis.call("ZCARD", KEYS[1]),
  redis.call("ZCOUNT", KEYS[1], "-inf", now),
  in_flight,
  redis.call("ZCARD", KEYS[2]),
  oldest_waiting == math.huge and -1 or oldest_waiting,
  oldest_entry == math.huge and -1 or oldest_entry,
  redis.call("HEXISTS", KEYS[3], "paused"),
  consumers,
  redis.call("HEXISTS", KEYS[3], "closed"),
}

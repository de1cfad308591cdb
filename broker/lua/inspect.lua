#!lua flags=no-writes
-- inspect: count a queue at one moment. No writes, so it answers on a full server and on a replica.
-- KEYS[1] scheduled   ZSET    id -> due time, unix ms
-- KEYS[2] dead        ZSET    id -> time of death, unix ms
-- KEYS[3] control     HASH    paused, closed
-- KEYS[4..] ready     STREAM  one a level
-- Returns {now, ready, scheduled, due, in flight, dead, oldest or -1, paused 0|1, consumers, closed 0|1}; times unix ms
-- Errors  none of its own
-- Cost    O(C + log N) a level, C consumers of the group, N scheduled
--@include clock
--@include fields
local now = now_ms()
local entries, in_flight, consumers, oldest = 0, 0, 0, -1

for i = 4, #KEYS do
  entries = entries + redis.call("XLEN", KEYS[i])
  local first = redis.call("XRANGE", KEYS[i], "-", "+", "COUNT", 1)[1]
  if first then
    local at = tonumber(string.match(first[1], "^%d+"))
    oldest = oldest == -1 and at or math.min(oldest, at)
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

return {
  now,
  entries - in_flight,
  redis.call("ZCARD", KEYS[1]),
  redis.call("ZCOUNT", KEYS[1], "-inf", now),
  in_flight,
  redis.call("ZCARD", KEYS[2]),
  oldest,
  redis.call("HEXISTS", KEYS[3], "paused"),
  consumers,
  redis.call("HEXISTS", KEYS[3], "closed"),
}

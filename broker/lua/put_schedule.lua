#!lua
-- put_schedule: keep a schedule of this queue, or another one in the place of its namesake.
-- KEYS[1] schedules   HASH  name -> definition
-- KEYS[2] state       HASH  what:name -> value
-- ARGV[1] name        str
-- ARGV[2] definition  str
-- ARGV[3] times       str   when it fires; another value begins anew
-- ARGV[4] grain       int   ms between two of its times at least
-- ARGV[5] declared    0|1   in code, which stands above what was added at run time
-- Returns 1 if it is kept, 0 if code declares a schedule of this name and this one was added
-- Errors  BADARG the grain is no number above 0; nothing written
-- Cost    O(1)
--@include clock
local name, grain, declared = ARGV[1], tonumber(ARGV[4]), ARGV[5] == "1"
if not grain or not (grain > 0) then
  return redis.error_reply("BADARG grain")
end
if not declared and redis.call("HEXISTS", KEYS[2], "declared:" .. name) == 1 then
  return 0
end
redis.call("HSET", KEYS[1], name, ARGV[2])
if declared then
  redis.call("HSET", KEYS[2], "declared:" .. name, 1)
end
-- Times before it was known are not missed ones. That of the present minute still counts.
if redis.call("HGET", KEYS[2], "times:" .. name) ~= ARGV[3] then
  local now = now_ms()
  local mark = tonumber(redis.call("HGET", KEYS[2], "mark:" .. name) or "0")
  mark = math.max(mark, now - now % grain - 1)
  redis.call("HSET", KEYS[2], "times:" .. name, ARGV[3], "mark:" .. name, string.format("%d", mark))
end
return 1

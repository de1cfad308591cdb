#!lua flags=allow-oom
-- pass_over: let fires of a schedule go by that no scheduler made in time.
-- KEYS[1] schedules   HASH  name -> definition
-- KEYS[2] state       HASH  what:name -> value
-- ARGV[1] name        str
-- ARGV[2] definition  str   what the scheduler read: it must still hold
-- ARGV[3] until       int   the last time to let go by, unix ms
-- ARGV[4] count       int   how many they are
-- Returns 1, or 0 if they went by before or another definition holds
-- Errors  BADARG a time or count that is no number; nothing written
-- Cost    O(1)
local name, upto, count = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
if not upto or not count then
  return redis.error_reply("BADARG until")
end
if redis.call("HGET", KEYS[1], name) ~= ARGV[2] then
  return 0
end
if upto <= tonumber(redis.call("HGET", KEYS[2], "mark:" .. name) or "0") then
  return 0
end
redis.call("HSET", KEYS[2], "mark:" .. name, ARGV[3])
redis.call("HINCRBY", KEYS[2], "missed:" .. name, count)
return 1

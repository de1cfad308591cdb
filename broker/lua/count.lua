#!lua flags=allow-oom
-- count: add failures to a tally, or take off it what has been reported.
-- KEYS[1] tally       HASH    packed [reason, actor, error type] -> count
-- ARGV[1..] failures  msgpack [reason, actor, error type, count]; a negative count takes off
-- Returns how many kinds there are in the tally
-- Errors  BADARG the count is no number; nothing written
-- Cost    O(1) a kind
--@include tally
local failures = {}
for i = 1, #ARGV do
  failures[i] = cmsgpack.unpack(ARGV[i])
  if type(failures[i][4]) ~= "number" then
    return redis.error_reply("BADARG count")
  end
end
for _, failure in ipairs(failures) do
  add(KEYS[1], kind(failure[1], failure[2], failure[3]), failure[4])
end
return redis.call("HLEN", KEYS[1]) - redis.call("HEXISTS", KEYS[1], "cursor")

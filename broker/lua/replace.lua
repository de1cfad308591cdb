#!lua
-- replace: put another value in the place of one that has not changed since it was read.
-- KEYS[1] messages    HASH    id -> message, packed
-- ARGV[1] id          str     of the message
-- ARGV[2] before      str     the value that was read
-- ARGV[3] after       str     the value to put there
-- Returns 1 if it was replaced, 0 if it is gone or another one by now
-- Errors  none of its own
-- Cost    O(size of the value)
if redis.call("HGET", KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call("HSET", KEYS[1], ARGV[1], ARGV[3])
return 1

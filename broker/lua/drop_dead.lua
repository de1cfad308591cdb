#!lua flags=allow-oom
-- drop_dead: drop dead letters, given by their ids.
-- KEYS[1] dead        ZSET    id -> time of death, unix ms
-- KEYS[2] dead messages HASH  id -> evidence and message, packed
-- ARGV[1..] id        str     of a letter
-- Returns the number that were there
-- Errors  none of its own
-- Cost    O(log N) a letter, N dead
local dropped = 0
for i = 1, #ARGV do
  redis.call("HDEL", KEYS[2], ARGV[i])
  dropped = dropped + redis.call("ZREM", KEYS[1], ARGV[i])
end
return dropped

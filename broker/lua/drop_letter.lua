#!lua flags=allow-oom
-- drop_letter: forget a dead letter that another queue has adopted.
-- KEYS[1] dead          ZSET  id -> time of death, unix ms
-- KEYS[2] dead messages HASH  id -> evidence and message, packed
-- ARGV[1] id            str
-- ARGV[2] digest        str   SHA-1 of the letter, in hex: another one under the id stays
-- Returns 1 if it was there, else 0
-- Errors  none of its own
-- Cost    O(log N), N dead
local letter = redis.call("HGET", KEYS[2], ARGV[1])
if not letter or redis.sha1hex(letter) ~= ARGV[2] then
  return 0
end
redis.call("HDEL", KEYS[2], ARGV[1])
return redis.call("ZREM", KEYS[1], ARGV[1])

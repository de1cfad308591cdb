#!lua flags=allow-oom
-- free_slot: give a slot back and call who waits for it.
-- KEYS[1] slots      ZSET    holder -> end of its lease, unix ms
-- KEYS[2] line       ZSET    id -> place
-- KEYS[3] scheduled  ZSET    id -> due time, unix ms
-- KEYS[4] wake       STREAM
-- KEYS[5] job prefix prefix of the records, completed with the message id
-- ARGV[1] holder     str
-- ARGV[2] most       int     slots of the key
-- Returns the number of jobs called
-- Errors  none of its own
-- Cost    O(log N) a job called or found ended, N scheduled or in line
--@include clock
--@include wake
--@include line
--@include slots
redis.call("ZREM", KEYS[1], ARGV[1])
local keys = { slots = KEYS[1], line = KEYS[2], scheduled = KEYS[3], job_prefix = KEYS[5] }
local called = call_waiting(keys, tonumber(ARGV[2]), now_ms())
signal(KEYS[4], called)
return called

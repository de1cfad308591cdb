#!lua flags=allow-oom
-- progress: note how far a running job is, behind its delivery's fence.
-- KEYS[1] ready       STREAM  of the delivery's level
-- KEYS[2] job prefix  prefix of the records, completed with the message id
-- ARGV[1] entry       id
-- ARGV[2] deliveries  int     the delivery count
-- ARGV[3] consumer    str
-- ARGV[4] id          str     of the message
-- ARGV[5] progress    float   from 0 to 1
-- ARGV[6] note        str
-- Returns 1; 0 if the delivery is no longer this consumer's, or no record is kept
-- Errors  none of its own
-- Cost    O(log N), N pending
local job_prefix = KEYS[2]
local record = job_prefix .. ARGV[4]
local pending = redis.pcall("XPENDING", KEYS[1], "workers", ARGV[1], ARGV[1], 1, ARGV[3])
local owned = not pending.err and pending[1]
if not owned or owned[4] ~= tonumber(ARGV[2]) then
  return 0
end
local prior = redis.call("HMGET", record, "token", "entry")
if prior[1] and not prior[2] then
  return 0
end
redis.call("HSET", record, "token", prior[1] or "", "progress", ARGV[5], "note", ARGV[6])
return 1

#!lua flags=no-writes
-- find_ended: look through a part of the records of ended jobs, the latest first.
-- KEYS[1] recent      ZSET    id -> when it ended, unix ms
-- KEYS[2] job prefix  prefix of the records, completed with the message id
-- ARGV[1] field       str     of the record: actor, error or correlation
-- ARGV[2] text        str     a part of the field's value
-- ARGV[3] offset      int     records to pass over
-- ARGV[4] limit       int     the most records to look at
-- ARGV[5] most        int     matches after which to stop
-- Returns {how many were looked at, id, id, ...}
-- Errors  none of its own
-- Cost    O(log N + limit), N records
local first = tonumber(ARGV[3])
local ids = redis.call("ZREVRANGE", KEYS[1], first, first + tonumber(ARGV[4]) - 1)
local found, job_prefix, most = { 0 }, KEYS[2], tonumber(ARGV[5])
for index, id in ipairs(ids) do
  if #found > most then
    break
  end
  found[1] = index
  local value = redis.call("HGET", job_prefix .. id, ARGV[1])
  if value and string.find(value, ARGV[2], 1, true) then
    found[#found + 1] = id
  end
end
return found

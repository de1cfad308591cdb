#!lua flags=no-writes
-- find_scheduled: look through a part of the scheduled messages, those due first first.
-- KEYS[1] scheduled   ZSET    id -> due time, unix ms
-- KEYS[2] messages    HASH    id -> the entry's fields, packed
-- KEYS[3] job prefix  prefix of the records, completed with the message id
-- ARGV[1] field       str     of the entry, or error, which the record has
-- ARGV[2] text        str     a part of the field's value
-- ARGV[3] offset      int     messages to pass over
-- ARGV[4] limit       int     the most messages to look at
-- ARGV[5] most        int     matches after which to stop
-- Returns {how many were looked at, id, id, ...}
-- Errors  none of its own
-- Cost    O(log N + bytes of the messages), N scheduled
--@include fields
local name, text, first = ARGV[1], ARGV[2], tonumber(ARGV[3])
local ids = redis.call("ZRANGE", KEYS[1], first, first + tonumber(ARGV[4]) - 1)
local found, job_prefix, most = { 0 }, KEYS[3], tonumber(ARGV[5])
for index, id in ipairs(ids) do
  if #found > most then
    break
  end
  found[1] = index
  local value
  if name == "error" then
    value = redis.call("HGET", job_prefix .. id, "error")
  else
    local ok, entry = pcall(cmsgpack.unpack, redis.call("HGET", KEYS[2], id) or "")
    value = ok and type(entry) == "table" and field(entry, name)
  end
  if value and string.find(value, text, 1, true) then
    found[#found + 1] = id
  end
end
return found

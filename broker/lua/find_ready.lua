#!lua flags=no-writes
-- find_ready: look through a part of a level's entries, in their order.
-- KEYS[1] ready       STREAM  of the level
-- ARGV[1] field       str     of the entry
-- ARGV[2] text        str     a part of the field's value
-- ARGV[3] from        str     the entry to begin at, as XRANGE has it
-- ARGV[4] limit       int     the most entries to look at
-- ARGV[5] most        int     matches after which to stop
-- Returns {how many were looked at, the last one's id or "", id, id, ...}, ids of messages
-- Errors  none of its own
-- Cost    O(bytes of the entries)
--@include fields
local entries = redis.call("XRANGE", KEYS[1], ARGV[3], "+", "COUNT", ARGV[4])
local found, most = { 0, "" }, tonumber(ARGV[5])
for index, entry in ipairs(entries) do
  if #found > most + 1 then
    break
  end
  found[1], found[2] = index, entry[1]
  local value = field(entry[2], ARGV[1])
  if value and string.find(value, ARGV[2], 1, true) then
    found[#found + 1] = field(entry[2], "id") or ""
  end
end
return found

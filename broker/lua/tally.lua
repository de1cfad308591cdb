#!lua flags=allow-oom
-- tally: count the dead letters that have come since the last call, by what they died of.
-- KEYS[1] dead        ZSET    id -> time of death, unix ms
-- KEYS[2] dead messages HASH  id -> evidence and message, packed
-- KEYS[3] tally       HASH    packed [reason, actor, error type] -> count; cursor -> the last time counted
-- ARGV[1] limit       int     about the most letters to look at in this call
-- Returns 1 if there may be more, 0 if all are counted
-- Errors  none of its own
-- Cost    O(log N + limit), N dead
--@include clock
--@include tally
local now, limit = now_ms(), tonumber(ARGV[1])
local cursor = redis.call("HGET", KEYS[3], "cursor") or "-inf"
if (tonumber(cursor) or 0) > now then
  cursor = string.format("%d", now - 1)  -- the server's clock was set back
  redis.call("HSET", KEYS[3], "cursor", cursor)
end
-- Not this millisecond's: others may come in it, and the cursor is past them then.
local letters = redis.call("ZRANGEBYSCORE", KEYS[1], "(" .. cursor, "(" .. now, "WITHSCORES", "LIMIT", 0, limit + 1)
if #letters == 0 then
  return 0
end
local last, more = letters[#letters], #letters / 2 > limit
if more and letters[2] ~= last then  -- whole milliseconds only
  local kept = #letters
  while letters[kept] == last do
    kept = kept - 2
  end
  last = letters[kept]
elseif more then
  letters = redis.call("ZRANGEBYSCORE", KEYS[1], last, last, "WITHSCORES")
end

-- The evidence comes first (see bury): the message itself is not unpacked, and a long one not even read.
local EVIDENCE = 20
local HEADER = { [220] = 3, [221] = 5 }
local LONG = 100000
local function evidence(id)
  if redis.call("HSTRLEN", KEYS[2], id) > LONG then
    return { reason = "unknown: a long message" }
  end
  local value = redis.call("HGET", KEYS[2], id)
  local ok, parts = pcall(function()
    return { cmsgpack.unpack_limit(value, EVIDENCE, HEADER[value:byte()] or 1) }
  end)
  local found = {}
  for i = 2, ok and #parts or 0, 2 do
    found[parts[i]] = parts[i + 1]
  end
  return found
end

for i = 1, #letters, 2 do
  if tonumber(letters[i + 1]) <= tonumber(last) then
    local found = evidence(letters[i])
    add(KEYS[3], kind(found.reason or "", found.actor or "", found.error_type or ""), 1)
  end
end
redis.call("HSET", KEYS[3], "cursor", last)
return more and 1 or 0

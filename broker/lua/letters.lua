#!lua flags=no-writes
-- letters: a page of dead letters by their time of death, without the messages, which may be large.
-- KEYS[1] dead          ZSET  id -> time of death, unix ms
-- KEYS[2] dead messages HASH  id -> evidence and message, packed
-- ARGV[1] now         int     the moment that ages are measured from, unix ms; 0 for this one
-- ARGV[2] oldest      int     ms since death at the most; -1 for any
-- ARGV[3] youngest    int     ms since death at the least
-- ARGV[4] from        int     time of death to begin at, unix ms; -1 to begin at the end
-- ARGV[5] newest first 0|1
-- ARGV[6] offset      int     letters to pass over
-- ARGV[7] limit       int     the most letters to look at
-- Returns {now, {{id, time of death, size in bytes, value, value, ...}, ...}}, the values of the first
--         eight pairs of evidence in their order; no values when the letter can't be read
-- Errors  none of its own
-- Cost    O(log N + offset + bytes of the letters), N dead
--@include clock
local EVIDENCE = 16  -- parts; bury.lua writes them
local now = tonumber(ARGV[1])
if now == 0 then
  now = now_ms()
end
local first = ARGV[2] == "-1" and 0 or now - tonumber(ARGV[2])
local last, from = now - tonumber(ARGV[3]), tonumber(ARGV[4])
local newest_first = ARGV[5] == "1"
if from >= 0 and newest_first then
  last = math.min(last, from)
elseif from >= 0 then
  first = math.max(first, from)
end

local command = newest_first and "ZREVRANGEBYSCORE" or "ZRANGEBYSCORE"
local a, b = first, last
if newest_first then
  a, b = last, first
end
local found = redis.call(command, KEYS[1], string.format("%d", a), string.format("%d", b), "WITHSCORES", "LIMIT", ARGV[6], ARGV[7])
local page = {}
for i = 1, #found, 2 do
  local packed = redis.call("HGET", KEYS[2], found[i]) or ""
  local head = { found[i], tonumber(found[i + 1]), #packed }
  local ok, parts = pcall(cmsgpack.unpack, packed)
  if ok and type(parts) == "table" and #parts >= EVIDENCE then
    for part = 2, EVIDENCE, 2 do
      head[#head + 1] = parts[part]
    end
  end
  page[#page + 1] = head
end
return { now, page }

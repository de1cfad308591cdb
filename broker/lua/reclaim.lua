#!lua flags=allow-oom
-- reclaim: take deliveries whose lease has expired from their owners, a bounded part a call.
-- KEYS[1] dead        ZSET    id -> time of death, unix ms
-- KEYS[2] dead messages HASH  id -> evidence and message, packed
-- KEYS[3] wake        STREAM
-- KEYS[4] dedup       HASH    deduplication key -> message id
-- KEYS[5] job prefix  prefix of the records, completed with the message id
-- KEYS[6] events      STREAM
-- KEYS[7] dead records ZSET   id -> when it ended, unix ms
-- KEYS[8] cancelled   ZSET    id -> when it ended, unix ms
-- KEYS[9] outbox      STREAM  letters: the ends of flows' messages
-- KEYS[10] lapsing   ZSET    deduplication key -> when it is free again, unix ms; of those with a ttl
-- KEYS[11..] ready     STREAM  one a level, lowest first
-- ARGV[1] lease       int     ms without renewal after which a delivery has no owner
-- ARGV[2] max deliveries int  an entry delivered so often is buried, not released
-- ARGV[3] limit       int     the most entries to take in this call
-- ARGV[4] level       int     where to go on; 0 to begin
-- ARGV[5] cursor      id      where to go on in that level; 0-0 to begin
-- ARGV[6] claimant    str     the consumer that is to bury what is delivered too often of the next
-- ARGV[7..] actor     str     of whose dead somebody is told
-- Returns {next level or -1 when the scan is over, next cursor, released, buried or cancelled,
--         {{level, entry id, delivery count, message id, actor, at}, ...} which are the claimant's now}
-- Errors  none of its own
-- Cost    O(levels + limit), at most ten times as many pending entries looked at
--@include clock
--@include wake
--@include record
--@include fields
--@include bury
--@include lost
--@include outbox
--@include hand_back
local left, level, cursor = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local released, buried = 0, 0

-- How many of these entries are released still.
local function still_released(key, waiting)
  local count = 0
  for _, id in ipairs(waiting) do
    count = count + #redis.call("XPENDING", key, "workers", id, id, 1, "~released")
  end
  return count
end

-- XAUTOCLAIM does not say whose the deliveries were; it looks at these, ten times its COUNT.
local function owners(key)
  local found = {}
  for _, row in ipairs(redis.call("XPENDING", key, "workers", cursor, "+", left * 10)) do
    found[row[1]] = row[2]
  end
  return found
end

local told_of, claimed = {}, {}
for i = 7, #ARGV do
  told_of[ARGV[i]] = true
end

local function reclaim(key)
  local owned = owners(key)
  local taken = redis.call("XAUTOCLAIM", key, "workers", "~released", ARGV[1], cursor, "COUNT", left, "JUSTID")
  local entries, waiting = {}, {}
  for _, id in ipairs(taken[2]) do
    local entry = redis.call("XPENDING", key, "workers", id, id, 1)[1]
    entry[2] = owned[id] or entry[2]
    entries[#entries + 1] = entry
    if entry[2] == "~released" then  -- for a lease's time: it is no news, unless it is to end
      waiting[#waiting + 1] = id
    end
  end
  local keys = {
    dead = KEYS[1], dead_messages = KEYS[2], dedup = KEYS[4], job_prefix = KEYS[5],
    events = KEYS[6], dead_records = KEYS[7], cancelled = KEYS[8], outbox = KEYS[9], letters = {}, ready = key,
    lapsing = KEYS[10],
  }
  local function claim(entry, fields)
    redis.call("XCLAIM", key, "workers", ARGV[6], 0, entry[1], "JUSTID")
    local at = field(fields, "at") or ""
    claimed[#claimed + 1] = { level, entry[1], entry[4], field(fields, "id"), field(fields, "actor"), at }
  end
  local given, dead = hand_back(keys, entries, tonumber(ARGV[2]), level, told_of, claim)
  released = released + given - still_released(key, waiting)
  buried = buried + dead
  left = left - #entries
  return taken[1]
end

while level <= #KEYS - 11 do
  local key = KEYS[11 + level]
  local group = redis.pcall("XPENDING", key, "workers")
  local idle = group.err or group[1] == 0
  if group.err and not string.find(group.err, "NOGROUP", 1, true) then
    return group
  end
  cursor = idle and "0-0" or reclaim(key)
  if cursor ~= "0-0" then
    break
  end
  level = level + 1
  if left <= 0 then
    break
  end
end
if level > #KEYS - 11 then
  level = -1
end
if released + buried > 0 then  -- what is buried leaves room under a global concurrency
  signal_all(KEYS[3])  -- one signal could go to a reader that has just died as well
end
return { level, cursor, released, buried, claimed }

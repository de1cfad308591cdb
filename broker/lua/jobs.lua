#!lua flags=no-writes
-- jobs: what is known of jobs at one moment. No writes, so it answers on a full server and on a replica.
-- KEYS[1] scheduled   ZSET    id -> due time, unix ms
-- KEYS[2] messages    HASH    id -> the entry's fields, packed
-- KEYS[3] job prefix  prefix of the records, completed with the message id
-- KEYS[4..] ready     STREAM  one a level, lowest first
-- ARGV[1..] id        str     of a message
-- Returns for each false (no record), or {state, record, message, consumer, deliveries, due}:
--         state ended | waiting | scheduled | running; record as {field, value, ...}; message the entry's
--         fields packed or {field, value, ...} or "" when it is no longer there; consumer "" when nobody
--         has it; due unix ms, -1 for none
-- Errors  none of its own
-- Cost    O(log N) a job, N scheduled or pending
--@include fields
--@include located
local job_prefix = KEYS[3]

local function job(id)
  local record = redis.call("HGETALL", job_prefix .. id)
  if #record == 0 then
    return false
  end
  if field(record, "state") then
    return { "ended", record, "", "", 0, -1 }
  end
  local due = redis.call("ZSCORE", KEYS[1], id)
  local _, _, found, delivery = located(field(record, "entry"), function(level) return KEYS[4 + level] end)
  if found then
    if not delivery then
      return { "waiting", record, found[2], "", 0, -1 }
    elseif delivery[2] == "~released" then
      return { "waiting", record, found[2], "", delivery[4], -1 }
    end
    return { "running", record, found[2], delivery[2], delivery[4], -1 }
  elseif due then
    return { "scheduled", record, redis.call("HGET", KEYS[2], id) or "", "", 0, tonumber(due) }
  elseif field(record, "entry") then
    return { "waiting", record, "", "", 0, -1 }  -- a second copy of it, whose place is not noted
  end
  return false
end

local jobs = {}
for i = 1, #ARGV do
  jobs[i] = job(ARGV[i])
end
return jobs

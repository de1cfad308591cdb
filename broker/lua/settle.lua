#!lua flags=allow-oom
-- settle: end deliveries of one queue, each with its outcome, behind its fence.
-- KEYS[1] scheduled   ZSET    id -> due time, unix ms
-- KEYS[2] messages    HASH    id -> the entry's fields, packed
-- KEYS[3] dead        ZSET    id -> time of death, unix ms
-- KEYS[4] dead messages HASH  id -> evidence and message, packed
-- KEYS[5] control     HASH    present when the queue is paused or limited
-- KEYS[6] wake        STREAM
-- KEYS[7] dedup       HASH    deduplication key -> message id
-- KEYS[8] job prefix  prefix of the records, completed with the message id
-- KEYS[9] events      STREAM
-- KEYS[10] completed  ZSET    id -> when it ended, unix ms; so the next two
-- KEYS[11] dead records ZSET
-- KEYS[12] cancelled  ZSET
-- KEYS[13] flow prefix prefix of the flows, completed with the id
-- KEYS[14] outbox     STREAM  letters: what is to be done in other slots, or later
-- KEYS[15] lapsing    ZSET    deduplication key -> when it is free again, unix ms; of those with a ttl
-- KEYS[16..] ready    STREAM  one a level, lowest first
-- ARGV[1] count       int     records of completed jobs to keep; -1 for any number
-- ARGV[2] age         int     ms to keep them; -1 for any age
-- ARGV[3..] settlement msgpack [outcome, level, entry id, delivery count, consumer, message id, deduplication key or "",
--           facts, error of the attempt or "", ...] and then
--           done      the result for the flow it belongs to, JSON, or ""
--           retry     delay ms, [field, value, ...] if that is 0, else [], the same packed with its level if
--                     it is not, else "", the successor's level
--           park      delay ms
--           release   nothing
--           cancel    nothing
--           bury      reason, error, actor, error type, trail (traceback and attempts), [field, value, ...] of an entry
--                     that tells of it, or [], the queue whose dead letters take it, or ""; the buried entry's
--                     own fields are kept
--           facts     false, or fields of the record: ["actor", its name, field, value, ...]
-- Returns {replies, letters}: for each settlement ok, stale (another delivery owns the entry), gone (no
--         such entry) or lost (no such entry, nor a record of its message); each letter {id, kind, to, body}
-- Errors  BADARG an unknown outcome or level; nothing written
-- Cost    O(log N) a settlement, N pending, scheduled, dead or recorded
--@include bounds
--@include clock
--@include fields
--@include wake
--@include record
--@include bury
--@include park
--@include outbox
--@include make_ready
local now = now_ms()
local job_prefix = KEYS[8]
local kept, kept_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local signals, completed, notices = 0, 0, 0
-- Ten years: what has an expiry has completed, and may be given a shorter one.
local FOR_EVER_MS = 10 * 365 * 86400000
local REMOVED_A_CALL = 1000

local function ended(recent)
  return { dedup = KEYS[7], lapsing = KEYS[15], job_prefix = job_prefix, events = KEYS[9], recent = recent }
end
local as_completed, as_dead, as_cancelled = ended(KEYS[10]), ended(KEYS[11]), ended(KEYS[12])
as_completed.ends = {}
as_completed.age_ms = kept_ms >= 0 and kept_ms or FOR_EVER_MS

local flows = {
  flow_prefix = KEYS[13], outbox = KEYS[14], job_prefix = job_prefix, events = KEYS[9], letters = {}, added = 0,
  ready = function(level)
    level = math.min(level, #KEYS - 16)
    return KEYS[16 + level], level
  end,
}

-- What flows need is much, and most messages belong to none: it is there once one does.
local function of_flows()
--@include flow
  return { place_here = place_here, advance = advance, write = write_flows }
end
local flowing = false

-- A flow whose state lies in this slot goes on at once.
local function go_on(place, state, result, error, facts)
  if not place then
    return
  end
  flowing = flowing or of_flows()
  local flow, number, message = flowing.place_here(flows, place)
  if flow then
    flowing.advance(flows, flow, number, message, state, result, error, facts and field(facts, "started"))
  else
    tell_flow(flows, place, state, result, error)
  end
end

-- By level: the entries that have ended. They leave their stream at the end, in one command.
local removed = {}
-- By level: whose the entries are, by id; false of those that have ended here.
local owned = {}

local function remove(s)
  local ids = removed[s[2]] or {}
  ids[#ids + 1] = s[3]
  removed[s[2]], owned[s[2]][s[3]] = ids, false
end

local function write_removed()
  for level, ids in pairs(removed) do
    for from = 1, #ids, REMOVED_A_CALL do
      local to = math.min(#ids, from + REMOVED_A_CALL - 1)
      redis.call("XACK", KEYS[16 + level], "workers", unpack(ids, from, to))
      redis.call("XDEL", KEYS[16 + level], unpack(ids, from, to))
    end
  end
end

local function write_ends()
  local ends = as_completed.ends
  for from = 1, #ends, 2 * REMOVED_A_CALL do
    redis.call("ZADD", KEYS[10], unpack(ends, from, math.min(#ends, from + 2 * REMOVED_A_CALL - 1)))
  end
end

local outcomes = {}

-- When the run began, unix ms; false if it never did, or no record is kept.
local function begun(s)
  return s[8] and field(s[8], "started")
end

function outcomes.done(s)
  if s[6] ~= "" then
    go_on(finish(as_completed, s[6], "completed", now, kept ~= 0 and s[8], "", "", begun(s), s.prior), "completed", s[10], "", s[8])
    completed = completed + 1
  end
  remove(s)
end

function outcomes.cancel(s)
  go_on(finish(as_cancelled, s[6], "cancelled", now, s[8], "", "", begun(s), s.prior), "cancelled", "", "cancelled", s[8])
  remove(s)
end

-- Tell of a beginning that no fetch has told of yet.
local function tell_begun(s)
  if begun(s) and redis.call("HSETNX", job_prefix .. s[6], "started", begun(s)) == 1 then
    tell(KEYS[9], "started", s[6], s[8][2])
  end
end

-- Whoever asked to cancel the job while it ran does not want to see it again.
local function to_be_cancelled(s)
  return s[6] ~= "" and redis.call("HEXISTS", job_prefix .. s[6], "cancel") == 1
end

function outcomes.retry(s)
  if to_be_cancelled(s) then
    return outcomes.cancel(s)
  end
  local record, delay, entry = job_prefix .. s[6], s[10], ""
  if delay > 0 then
    local head = redis.call("ZRANGE", KEYS[1], 0, 0, "WITHSCORES")
    redis.call("HSET", KEYS[2], s[6], s[12])
    if redis.call("ZADD", KEYS[1], now + delay, s[6]) == 0 then  -- in place of a scheduled successor
      drop_copy(record, redis.call("HGET", record, "others"))
    end
    if not head[2] or now + delay < tonumber(head[2]) then
      signals = signals + 1
    end
  else
    entry = s[13] .. ":" .. redis.call("XADD", KEYS[16 + s[13]], "*", unpack(s[11]))
  end
  if s[6] ~= "" then
    redis.call("HDEL", record, "unsettled")  -- this delivery ended as it should
    local prior = redis.call("HMGET", record, "token", "entry")
    if not prior[1] then
      redis.call("HSET", record, "token", "")  -- another language's message has none yet
    end
    if s[8] and (prior[2] or not prior[1]) then
      tell_begun(s)
      redis.call("HSET", record, "entry", entry, "due", string.format("%d", now + delay), unpack(s[8]))
      redis.call("HDEL", record, "started")
      if s[9] ~= "" then
        tell(KEYS[9], "failed", s[6], s[8][2], "", s[9])
        tell(KEYS[9], "retrying", s[6], s[8][2], "", s[9])
      else
        tell(KEYS[9], delay > 0 and "scheduled" or "queued", s[6], s[8][2])
      end
    end
  end
  remove(s)
end

function outcomes.park(s)
  if to_be_cancelled(s) then
    return outcomes.cancel(s)
  end
  local id = s[6] ~= "" and s[6] or s[2] .. ":" .. s[3]
  local keys = {
    scheduled = KEYS[1], messages = KEYS[2], ready = KEYS[16 + s[2]], job_prefix = job_prefix, events = KEYS[9],
  }
  if park(keys, s[2], s[3], s[4], id, now + s[10]) then
    signals = signals + 1
  end
end

-- The delivery did not run to its end by nobody's fault, so it does not count.
function outcomes.release(s)
  if to_be_cancelled(s) then
    return outcomes.cancel(s)
  end
  redis.call("XCLAIM", KEYS[16 + s[2]], "workers", "~released", 0, s[3], "RETRYCOUNT", math.max(0, s[4] - 1), "JUSTID")
  signals = signals + 1
end

function outcomes.bury(s)
  local id = s[6] ~= "" and s[6] or (s[2] .. ":" .. s[3])
  local evidence = { reason = s[10], error = s[11], deliveries = s[4], level = s[2], dedup = s[7] }
  evidence.actor, evidence.error_type, evidence.trail = s[12], s[13], s[14]
  evidence.lost = s[6] ~= "" and redis.call("HGET", job_prefix .. s[6], "lost") or ""
  evidence.flow = s.prior and s.prior[5]
  local found = redis.call("XRANGE", KEYS[16 + s[2]], s[3], s[3])[1]
  if found then  -- deleted by hand: there is nothing left to keep
    local letter = bury(KEYS[3], KEYS[4], id, s[3], now, evidence, found[2])
    if s[16] ~= "" then
      post(flows, "bury", s[16], letter)
    end
  end
  if s[6] ~= "" then
    if s[8] then
      tell_begun(s)
    end
    if s[8] and s[9] ~= "" then
      tell(KEYS[9], "failed", s[6], s[8][2], "", s[9])
    end
    go_on(finish(as_dead, s[6], "dead", now, s[8], s[10], s[11], false, s.prior), "dead", "", s[11], s[8])
  end
  if found and #s[15] > 0 then
    redis.call("HSETNX", job_prefix .. field(s[15], "id"), "token", "notice")  -- it is no replay
    redis.call("XADD", KEYS[16 + s[2]], "*", unpack(s[15]))
    notices = notices + 1
  end
  remove(s)
end

local settlements = {}
for i = 3, #ARGV do
  local s = cmsgpack.unpack(ARGV[i])
  if not outcomes[s[1]] or not KEYS[16 + s[2]] or (s[1] == "retry" and not KEYS[16 + s[13]]) then
    return redis.error_reply("BADARG outcome " .. tostring(s[1]) .. " level " .. tostring(s[2]))
  end
  settlements[i - 2] = s
end

-- Ask once a level whose the entries are, and not one by one: what a batch ends is among the first that its
-- consumer has. What is not found by that is asked for when its turn comes.
local function look_ahead()
  local counts = {}
  for _, s in ipairs(settlements) do
    counts[s[2]], owned[s[2]] = (counts[s[2]] or 0) + 1, {}
  end
  for level, count in pairs(counts) do
    if count > 1 then
      local found = redis.pcall("XPENDING", KEYS[16 + level], "workers", "-", "+", 2 * count, settlements[1][5])
      for _, entry in ipairs(found.err and {} or found) do
        owned[level][entry[1]] = entry
      end
    end
  end
end

-- After the server has lost all, a new entry may get the id of an old one in the same millisecond. The old
-- one's message then has no record, or one that knows it elsewhere, which a copy may have as well.
local REPLACED = "\239\191\189"  -- in place of bytes that are no text: such an id can't be compared
local function is_anothers(s)
  local prior = s.prior
  if not prior or prior[1] and (not prior[4] or prior[4] == s[2] .. ":" .. s[3]) then
    return false
  end
  local found = redis.call("XRANGE", KEYS[16 + s[2]], s[3], s[3])[1]
  local id = found and not field(found[2], "message") and field(found[2], "id")  -- an own encoder has its own id
  return id and id ~= s[6] and not s[6]:find(REPLACED, 1, true)
end

local function fence(s)
  local key, entry = KEYS[16 + s[2]], owned[s[2]][s[3]]
  if entry == nil then
    local pending = redis.pcall("XPENDING", key, "workers", s[3], s[3], 1)
    entry = not pending.err and pending[1]
    if not entry and #redis.call("XRANGE", key, s[3], s[3]) > 0 then
      return "stale"
    end
  end
  if not entry then
    local record = job_prefix .. s[6]
    return redis.call("EXISTS", record) == 1 and "gone" or "lost"
  end
  if entry[2] ~= s[5] or entry[4] ~= s[4] then
    return "stale"
  end
  s.prior = s[6] ~= "" and prior_of(job_prefix .. s[6])
  return is_anothers(s) and "stale" or "ok"
end

local function end_all(replies)
  for i, s in ipairs(settlements) do
    replies[i] = fence(s)
    if replies[i] == "ok" then
      owned[s[2]][s[3]] = nil
      outcomes[s[1]](s)
      if s[4] >= SUSPECT_FROM then
        signals = signals + 1  -- the next suspect may be taken
      end
    end
  end
end

look_ahead()
local replies = {}
local ok, failure = pcall(end_all, replies)
-- All that follows is also for what has ended before one that failed: it is settled, and comes no second time.
write_removed()
write_ends()
if kept > 0 and completed > 0 then
  -- Twice as many as came: a smaller count takes hold soon, and never at once.
  local excess = math.min(2 * completed, redis.call("ZCARD", KEYS[10]) - kept)
  local oldest = excess > 0 and redis.call("ZPOPMIN", KEYS[10], excess) or {}
  for i = 1, #oldest, 2 do
    local left = math.max(1, tonumber(oldest[i + 1]) + IDEMPOTENCY_MS - now)
    redis.call("PEXPIRE", job_prefix .. oldest[i], left, "XX")  -- one that lives again has no expiry
  end
end
if redis.call("EXISTS", KEYS[5]) == 1 then
  signals = signals + #settlements + notices + flows.added
end
signal(KEYS[6], signals)
if flowing then
  flowing.write(flows)
end
if not ok then
  return error(failure)
end
return { replies, flows.letters }

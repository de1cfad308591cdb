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
-- KEYS[9..] ready     STREAM  one a level, lowest first
-- ARGV[1..] settlement msgpack [outcome, level, entry id, delivery count, consumer, message id, deduplication key or "", ...] and then
--           done      nothing
--           retry     delay ms, [field, value, ...], the same packed with its level, the successor's level
--           park      delay ms
--           release   nothing
--           bury      reason, error, actor, error type, trail (traceback and attempts); the entry's own fields are kept
-- Returns for each settlement ok, stale (another delivery owns the entry), gone (no such entry)
--         or lost (no such entry, nor a record of its message)
-- Errors  BADARG an unknown outcome or level; nothing written
-- Cost    O(log N) a settlement, N pending, scheduled or dead
--@include bounds
--@include clock
--@include wake
--@include record
--@include bury
--@include park
local now = now_ms()
local job_prefix = KEYS[8]
local signals = 0

local function remove(s)
  redis.call("XACK", KEYS[9 + s[2]], "workers", s[3])
  redis.call("XDEL", KEYS[9 + s[2]], s[3])
end

local outcomes = {}

function outcomes.done(s)
  if s[6] ~= "" then
    finish(KEYS[7], job_prefix .. s[6], s[6], "completed")
  end
  remove(s)
end

function outcomes.retry(s)
  if s[6] ~= "" then
    redis.call("HSETNX", job_prefix .. s[6], "token", "")  -- another language's message has none yet
    redis.call("HDEL", job_prefix .. s[6], "unsettled")  -- this delivery ended as it should
  end
  local delay = s[8]
  if delay > 0 then
    local head = redis.call("ZRANGE", KEYS[1], 0, 0, "WITHSCORES")
    redis.call("HSET", KEYS[2], s[6], s[10])
    if redis.call("ZADD", KEYS[1], now + delay, s[6]) == 0 then  -- in place of a scheduled successor
      drop_copy(job_prefix .. s[6], redis.call("HGET", job_prefix .. s[6], "others"))
    end
    if not head[2] or now + delay < tonumber(head[2]) then
      signals = signals + 1
    end
  else
    redis.call("XADD", KEYS[9 + s[11]], "*", unpack(s[9]))
  end
  remove(s)
end

function outcomes.park(s)
  local id = s[6] ~= "" and s[6] or s[2] .. ":" .. s[3]
  local keys = { scheduled = KEYS[1], messages = KEYS[2], ready = KEYS[9 + s[2]], job_prefix = job_prefix }
  if park(keys, s[2], s[3], s[4], id, now + s[8]) then
    signals = signals + 1
  end
end

-- The delivery did not run to its end by nobody's fault, so it does not count.
function outcomes.release(s)
  redis.call("XCLAIM", KEYS[9 + s[2]], "workers", "~released", 0, s[3], "RETRYCOUNT", math.max(0, s[4] - 1), "JUSTID")
  signals = signals + 1
end

function outcomes.bury(s)
  local id = s[6] ~= "" and s[6] or (s[2] .. ":" .. s[3])
  local evidence = { reason = s[8], error = s[9], deliveries = s[4], level = s[2], dedup = s[7] }
  evidence.actor, evidence.error_type, evidence.trail = s[10], s[11], s[12]
  evidence.lost = s[6] ~= "" and redis.call("HGET", job_prefix .. s[6], "lost") or ""
  local found = redis.call("XRANGE", KEYS[9 + s[2]], s[3], s[3])[1]
  if found then  -- deleted by hand: there is nothing left to keep
    bury(KEYS[3], KEYS[4], id, s[3], now, evidence, found[2])
  end
  if s[6] ~= "" then
    finish(KEYS[7], job_prefix .. s[6], s[6], "dead")
  end
  remove(s)
end

local settlements = {}
for i = 1, #ARGV do
  local s = cmsgpack.unpack(ARGV[i])
  if not outcomes[s[1]] or not KEYS[9 + s[2]] or (s[1] == "retry" and not KEYS[9 + s[11]]) then
    return redis.error_reply("BADARG outcome " .. tostring(s[1]) .. " level " .. tostring(s[2]))
  end
  settlements[i] = s
end

local function fence(s)
  local key = KEYS[9 + s[2]]
  local pending = redis.pcall("XPENDING", key, "workers", s[3], s[3], 1)
  local entry = not pending.err and pending[1]
  if not entry then
    if #redis.call("XRANGE", key, s[3], s[3]) > 0 then
      return "stale"
    end
    local record = job_prefix .. s[6]
    return redis.call("EXISTS", record) == 1 and "gone" or "lost"
  end
  if entry[2] ~= s[5] or entry[4] ~= s[4] then
    return "stale"
  end
  return "ok"
end

local replies = {}
for i, s in ipairs(settlements) do
  replies[i] = fence(s)
  if replies[i] == "ok" then
    outcomes[s[1]](s)
    if s[4] >= SUSPECT_FROM then
      signals = signals + 1  -- the next suspect may be taken
    end
  end
end
if redis.call("EXISTS", KEYS[5]) == 1 then
  signals = signals + #settlements
end
signal(KEYS[6], signals)
return replies

#!lua flags=allow-oom
-- fetch: promote what is due, then hand over entries, released ones before new ones.
-- KEYS[1] scheduled  ZSET    id -> due time, unix ms
-- KEYS[2] messages   HASH    id -> the entry's fields, packed
-- KEYS[3] control    HASH    paused, global_concurrency, rate, rate_period and the bucket
-- KEYS[4] wake       STREAM  signals; the group is made here
-- KEYS[5] dead       ZSET    id -> time of death, unix ms; for what can't be promoted
-- KEYS[6] dead messages HASH id -> evidence and message, packed
-- KEYS[7] dedup      HASH    deduplication key -> message id
-- KEYS[8] job prefix prefix of the records, completed with the message id
-- KEYS[9] events     STREAM
-- KEYS[10] dead records ZSET id -> when it ended, unix ms
-- KEYS[11] outbox    STREAM  letters: the ends of flows' messages
-- KEYS[12] lapsing   ZSET    deduplication key -> when it is free again, unix ms; of those with a ttl
-- KEYS[13..] ready   STREAM  one a level, lowest first; the groups are made here
-- ARGV[1] consumer   str
-- ARGV[2] count      int     the most deliveries to hand over
-- ARGV[3] lowest     0|1     serve the lowest level first, so that nothing starves
-- ARGV[4] suspects   int     how many suspects may be handed over
-- ARGV[5] taken      msgpack [[level, entry id, [field, value, ...]], ...] what the consumer has and no record was told of;
--                    of the fields id, actor and, where there is one, sealed, whatever its value
-- ARGV[6] tell       0|1     whether the records are told of what is handed over for the first time
-- ARGV[7..] signal   id      signals the consumer has read
-- Returns {now, earliest due or -1, gated 0|1, {{level, entry id, delivery count, {field, value, ...}, replay 0|1}, ...},
--         {index, from 1, of what was taken and is a replay, ...}}; times unix ms. A replay is a sealed entry
--         whose message has ended or was never enqueued
-- Errors  none of its own
-- Cost    O(levels + count + promoted log N), at most 100 promoted a call
--@include bounds
--@include clock
--@include fields
--@include record
--@include bury
--@include outbox
local PROMOTED_PER_CALL = 100
local RELEASED_PAGE, RELEASED_PAGES = 64, 16  -- looked at for one that may be handed over
local FIRST = 13  -- the lowest level's key

local now = now_ms()
local now_text = string.format("%d", now)
local job_prefix = KEYS[8]
local consumer, count, suspects, tells = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), ARGV[6] == "1"
local deliveries = {}

local function ensure_group(key)
  local made = redis.pcall("XGROUP", "CREATE", key, "workers", "0", "MKSTREAM")
  if made.err and not string.find(made.err, "BUSYGROUP", 1, true) then
    return error(made.err)
  end
end

local function is_gone(error)
  return string.find(error, "NOGROUP", 1, true) or string.find(error, "requires the key to exist", 1, true)
end

-- A stream may vanish at any time (FLUSHALL, DEL): the group is made again at 0.
local function with_group(key, ...)
  local reply = redis.pcall(...)
  if type(reply) == "table" and reply.err and is_gone(reply.err) then
    ensure_group(key)
    reply = redis.call(...)
  end
  return reply
end

-- Redis 7.0 forgets a consumer that never got anything; whoever wakes all has to count it.
local function make_known()
  with_group(KEYS[4], "XGROUP", "CREATECONSUMER", KEYS[4], "workers", consumer)
end

if #ARGV > 6 then
  with_group(KEYS[4], "XACK", KEYS[4], "workers", unpack(ARGV, 7))
  redis.call("XDEL", KEYS[4], unpack(ARGV, 7))
end

-- Note that a delivery has begun. What has no record yet comes from another language.
-- Returns 1 for a replay, of which nothing is noted: whoever can add an entry could otherwise have a
-- job run again by copying an old one. `quietly`: that is all there is to find out.
local function note_started(level, entry, fields, quietly)
  local id, sealed = field(fields, "id"), field(fields, "sealed")
  if quietly and not sealed then
    return 0
  end
  if not id or id == "" then
    return sealed and 1 or 0
  end
  local record = job_prefix .. id
  local prior = redis.pcall("HMGET", record, "token", "entry", "state")
  if prior.err then  -- a record of another type hinders nobody, and is no live one
    return sealed and 1 or 0
  end
  -- An empty token is what was noted of an entry that nobody enqueued.
  if sealed and (not prior[1] or prior[1] == "" or prior[3]) then
    return 1
  end
  if quietly then
    return 0
  end
  local place = level .. ":" .. entry
  if prior[2] == place then
    redis.call("HSET", record, "started", now_text)
  elseif prior[2] or not prior[1] then
    redis.call("HSET", record, "token", prior[1] or "", "entry", place, "started", now_text)
  end
  if prior[2] or not prior[1] then
    tell(KEYS[9], "started", id, field(fields, "actor"))
  end
  return 0
end

local replays = {}
for i, taken in ipairs(cmsgpack.unpack(ARGV[5])) do
  local pending = redis.pcall("XPENDING", KEYS[FIRST + taken[1]], "workers", taken[2], taken[2], 1, consumer)
  if pending.err or not pending[1] then  -- it has ended already, or is somebody else's
    replays[#replays + 1] = field(taken[3], "sealed") and i or nil
  elseif note_started(taken[1], taken[2], taken[3]) == 1 then
    replays[#replays + 1] = i
  end
end

local control = redis.call("HMGET", KEYS[3], "paused", "global_concurrency", "rate", "rate_period", "tokens", "tokens_at")
local paused, concurrency, rate = control[1], tonumber(control[2] or ""), tonumber(control[3] or "")
local gated = (paused or concurrency or rate) and 1 or 0
local opens_at = false  -- when a limit lets the next job through, unix ms

if paused then
  make_known()
  return { now, -1, gated, deliveries, replays }
end

-- One message that somebody else wrote wrongly must not hold up all later ones.
local function unpack_entry(packed)
  local ok, fields = pcall(cmsgpack.unpack, packed)
  if not ok or type(fields) ~= "table" or not are_pairs(#fields) then
    return false
  end
  for _, part in ipairs(fields) do
    if type(part) ~= "string" then
      return false
    end
  end
  if fields[#fields - 1] ~= "level" then
    return fields, 0
  end
  local level = tonumber(fields[#fields])
  fields[#fields], fields[#fields - 1] = nil, nil
  return #fields > 0 and level and level >= 0 and level % 1 == 0 and fields, level
end

local function bury_undecodable(id, packed)
  if packed then
    local evidence = { reason = "undecodable", error = "no packed entry", deliveries = 0, level = 0 }
    evidence.dedup = held_key(job_prefix .. id)
    bury(KEYS[5], KEYS[6], id, "scheduled", now, evidence, { "packed", packed })
  end
  local keys = { dedup = KEYS[7], job_prefix = job_prefix, events = KEYS[9], recent = KEYS[10] }
  keys.lapsing, keys.outbox, keys.letters = KEYS[12], KEYS[11], {}
  local place = finish(keys, id, "dead", now, { "actor", "" }, "undecodable", "no packed entry")
  tell_flow(keys, place, "dead", "", "no packed entry")
end

local function promote(id, packed)
  local fields, level = false, 0
  if packed then
    fields, level = unpack_entry(packed)
  end
  if not fields then
    return bury_undecodable(id, packed)
  end
  level = math.min(level, #KEYS - FIRST)
  local entry = redis.call("XADD", KEYS[FIRST + level], "*", unpack(fields))
  local noted = redis.pcall("HEXISTS", job_prefix .. id, "entry")
  if noted == 1 then  -- a record of another type hinders nobody
    redis.call("HSET", job_prefix .. id, "entry", level .. ":" .. entry)
  end
end

-- Promote. The order of the due times is kept.
local due_ids = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", now, "LIMIT", 0, PROMOTED_PER_CALL)
if #due_ids > 0 then
  local packed, promoted = redis.call("HMGET", KEYS[2], unpack(due_ids)), {}
  local ok, failure = pcall(function()
    for i, id in ipairs(due_ids) do
      promote(id, packed[i])
      promoted[i] = id
    end
  end)
  if #promoted > 0 then  -- also those before one that failed: nothing is in two places
    redis.call("ZREM", KEYS[1], unpack(promoted))
    redis.call("HDEL", KEYS[2], unpack(promoted))
  end
  if not ok then
    return error(failure)
  end
end

if concurrency then
  local in_flight = 0
  for i = FIRST, #KEYS do
    local summary = with_group(KEYS[i], "XPENDING", KEYS[i], "workers")
    in_flight = in_flight + summary[1]
    for _, owner in ipairs(summary[4] or {}) do
      if owner[1] == "~released" then
        in_flight = in_flight - tonumber(owner[2])
      end
    end
  end
  count = math.min(count, math.max(0, concurrency - in_flight))
end

local tokens
if rate then
  local period = tonumber(control[4] or "1000")
  local before, at = tonumber(control[5] or "") or rate, tonumber(control[6] or "") or now
  tokens = math.min(rate, before + math.max(0, now - at) * rate / period)
  count = math.min(count, math.floor(tokens))
  if tokens < 1 then
    opens_at = now + math.ceil((1 - tokens) * period / rate)
  end
end

local function hand_over_released(level, key)
  local from, page = "-", count - #deliveries + RELEASED_PAGE
  for _ = 1, RELEASED_PAGES do
    local pending = with_group(key, "XPENDING", key, "workers", from, "+", page, "~released")
    for _, entry in ipairs(pending) do
      if #deliveries >= count then
        return
      end
      local delivery = entry[4] + 1
      local suspect = delivery >= SUSPECT_FROM
      if not suspect or suspects > 0 then
        local claimed = redis.call("XCLAIM", key, "workers", consumer, 0, entry[1])
        if claimed[1] and claimed[1][2] then
          local fields = claimed[1][2]
          local replay = note_started(level, entry[1], fields, delivery == 1 and not tells)
          deliveries[#deliveries + 1] = { level, entry[1], delivery, fields, replay }
          if suspect then
            suspects = suspects - 1
          end
        end
      end
    end
    if #pending < page then
      return
    end
    from = "(" .. pending[#pending][1]
  end
end

local function hand_over_new(level, key)
  if #deliveries >= count then
    return
  end
  local reply = redis.call("XREADGROUP", "GROUP", "workers", consumer, "COUNT", count - #deliveries, "STREAMS", key, ">")
  if reply then
    for _, entry in ipairs(reply[1][2]) do
      local replay = note_started(level, entry[1], entry[2], not tells)
      deliveries[#deliveries + 1] = { level, entry[1], 1, entry[2], replay }
    end
  end
end

local first, last, step = #KEYS, FIRST, -1
if ARGV[3] == "1" then
  first, last, step = FIRST, #KEYS, 1
end
for i = first, last, step do
  if redis.call("XLEN", KEYS[i]) > 0 then
    hand_over_released(i - FIRST, KEYS[i])
    hand_over_new(i - FIRST, KEYS[i])
  end
end
if #deliveries == 0 then  -- the consumer is about to block on all levels: their groups have to be there
  for i = FIRST, #KEYS do
    with_group(KEYS[i], "XPENDING", KEYS[i], "workers")
  end
end

if tokens then
  redis.call("HSET", KEYS[3], "tokens", tostring(tokens - #deliveries), "tokens_at", string.format("%d", now))
end
make_known()

local head = redis.call("ZRANGE", KEYS[1], 0, 0, "WITHSCORES")
local due = tonumber(head[2] or "")
if opens_at and (not due or opens_at < due) then
  due = opens_at
end
return { now, due or -1, gated, deliveries, replays }

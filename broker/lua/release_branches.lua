#!lua flags=allow-oom
-- release_branches: send a part of a step's messages; of a flow that failed the rest is held, of one that stopped it is dropped.
-- KEYS[1] flow prefix prefix of the flows, completed with the id
-- KEYS[2] outbox      STREAM  letters: what is to be done in other slots, or later
-- KEYS[3] job prefix  prefix of the records, completed with the message id
-- KEYS[4] events      STREAM
-- KEYS[5] control     HASH    present when the queue is paused or limited
-- KEYS[6] wake        STREAM
-- KEYS[7..] ready     STREAM  one a level, lowest first
-- ARGV[1] id          str     of the flow
-- ARGV[2] number      int     of the step
-- ARGV[3] limit       int     the most messages to send in this call
-- Returns {messages left to send, the letters written, each {id, kind, to, body}}
-- Errors  none of its own
-- Cost    O(limit)
--@include clock
--@include fields
--@include wake
--@include record
--@include outbox
--@include make_ready
--@include flow
local flow, number, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local keys = {
  flow_prefix = KEYS[1], outbox = KEYS[2], job_prefix = KEYS[3], events = KEYS[4], letters = {}, added = 0,
  ready = function(level)
    level = math.min(level, #KEYS - 7)
    return KEYS[7 + level], level
  end,
}
local step, key = step_of(keys, flow, number), part(keys, flow, "")
if not step then
  return { 0, keys.letters }
end
local found = redis.call("HMGET", key, number .. ":sent", "state", "reason", number .. ":held")
local sent = tonumber(found[1] or 0)
local rest = step.size - sent
if found[4] then
  rest = 0
elseif rest > 0 and found[2] ~= "running" and found[3] == "failed" then  -- it may be taken up again
  redis.call("HSET", key, number .. ":held", rest)
  redis.call("HINCRBY", key, "open", -rest)
  conclude(keys, flow)
  rest = 0
elseif rest > 0 and found[2] ~= "running" then
  redis.call("HSET", key, number .. ":sent", step.size)
  redis.call("HINCRBY", key, "open", -rest)
  redis.call("HINCRBY", key, number .. ":dropped", rest)
  if redis.call("HINCRBY", key, number .. ":left", -rest) == 0 then
    end_step(keys, flow, number, step)
  end
  conclude(keys, flow)
  rest = 0
elseif rest > 0 then
  local count = math.min(rest, limit)
  send(keys, flow, step.first + sent, count)
  redis.call("HINCRBY", key, number .. ":sent", count)
  rest = rest - count
end
signal_if_gated(KEYS[5], KEYS[6], keys.added)
return { rest, keys.letters }

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
local number, limit = tonumber(ARGV[2]), tonumber(ARGV[3])
local keys = {
  flow_prefix = KEYS[1], outbox = KEYS[2], job_prefix = KEYS[3], events = KEYS[4], letters = {}, added = 0,
  ready = function(level)
    level = math.min(level, #KEYS - 7)
    return KEYS[7 + level], level
  end,
}
local flow = flow_of(keys, ARGV[1])
local step = step_of(keys, flow, number)
if not step then
  return { 0, keys.letters }
end
local sent, running = tonumber(get(keys, flow, number .. ":sent") or 0), get(keys, flow, "state") == "running"
local rest = step.size - sent
if get(keys, flow, number .. ":held") then
  rest = 0
elseif rest > 0 and not running and not was_stopped(keys, flow) then  -- it may be taken up again
  put(flow, number .. ":held", string.format("%d", rest))
  add(keys, flow, "open", -rest)
  conclude(keys, flow)
  rest = 0
elseif rest > 0 and not running then
  put(flow, number .. ":sent", string.format("%d", step.size))
  add(keys, flow, "open", -rest)
  add(keys, flow, number .. ":dropped", rest)
  if add(keys, flow, number .. ":left", -rest) == 0 then
    end_step(keys, flow, number, step)
  end
  conclude(keys, flow)
  rest = 0
elseif rest > 0 then
  local count = math.min(rest, limit)
  send(keys, flow, step.first + sent, count)
  add(keys, flow, number .. ":sent", count)
  rest = rest - count
end
write_flows(keys)
signal_if_gated(KEYS[5], KEYS[6], keys.added)
return { rest, keys.letters }

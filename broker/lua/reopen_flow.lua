#!lua flags=allow-oom
-- reopen_flow: take back the failure of a message that was redriven, so that its flow goes on.
-- KEYS[1] flow prefix prefix of the flows, completed with the id
-- KEYS[2] outbox      STREAM  letters: what is to be done in other slots, or later
-- KEYS[3] job prefix  prefix of the records, completed with the message id
-- KEYS[4] events      STREAM
-- KEYS[5] control     HASH    present when the queue is paused or limited
-- KEYS[6] wake        STREAM
-- KEYS[7..] ready     STREAM  one a level, lowest first
-- ARGV[1] id          str     of the flow
-- ARGV[2] number      int     of the step
-- ARGV[3] message     int     its number in the flow
-- Returns {1 if the message may run, the letters written, each {id, kind, to, body}}
-- Errors  none of its own
-- Cost    O(steps)
--@include clock
--@include fields
--@include wake
--@include record
--@include outbox
--@include make_ready
--@include flow
local number, message = tonumber(ARGV[2]), tonumber(ARGV[3])
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
-- What its flow goes on without runs for itself, unless what was done is undone.
if step.policy ~= "fail" then
  local stands = get(keys, flow, "state") ~= "compensating" and not get(keys, flow, "undone")
  return { stands and not was_stopped(keys, flow) and 1 or 0, keys.letters }
end
local under_way = redis.call("GETBIT", part(keys, flow, ":ended"), message) == 0  -- it was taken back before
local goes_on = get(keys, flow, "reason") == "failed" and not get(keys, flow, "undone")
local may_run = (under_way and goes_on) or reopen(keys, flow, number, step, message)
write_flows(keys)
signal_if_gated(KEYS[5], KEYS[6], keys.added)
return { may_run and 1 or 0, keys.letters }

#!lua flags=allow-oom
-- advance_flow: count the end of a flow's message, and release what waits for it.
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
-- ARGV[4] end         msgpack [state, result or "", error or ""]
-- Returns the letters written, each {id, kind, to, body}; an end told again changes nothing
-- Errors  none of its own
-- Cost    O(1), and O(1) for each message released
--@include clock
--@include fields
--@include wake
--@include record
--@include outbox
--@include make_ready
--@include flow
local keys = {
  flow_prefix = KEYS[1], outbox = KEYS[2], job_prefix = KEYS[3], events = KEYS[4], letters = {}, added = 0,
  ready = function(level)
    level = math.min(level, #KEYS - 7)
    return KEYS[7 + level], level
  end,
}
local told = cmsgpack.unpack(ARGV[4])
advance(keys, flow_of(keys, ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), told[1], told[2], told[3])
write_flows(keys)
signal_if_gated(KEYS[5], KEYS[6], keys.added)
return keys.letters

#!lua flags=allow-oom
-- stop_flow: let a running flow begin nothing more, and end once nothing of it is under way.
-- KEYS[1] flow prefix prefix of the flows, completed with the id
-- KEYS[2] outbox      STREAM  letters: what is to be done in other slots, or later
-- KEYS[3] deadlines   ZSET    flow id -> when its time is over, unix ms
-- ARGV[1] id          str     of the flow
-- ARGV[2] reason      str     cancelled or timed_out: the state in which it will end
-- Returns {1 if this stopped it or it was stopping so already, the letters written, each {id, kind, to, body}}
-- Errors  none of its own
-- Cost    O(1)
--@include clock
--@include outbox
--@include flow
local keys = { flow_prefix = KEYS[1], outbox = KEYS[2], letters = {}, added = 0 }
local flow = flow_of(keys, ARGV[1])
redis.call("ZREM", KEYS[3], flow.id)
local stopped = stop(keys, flow, ARGV[2])
if stopped then
  conclude(keys, flow)
end
local going_so = get(keys, flow, "state") == "stopping" and get(keys, flow, "reason") == ARGV[2]
write_flows(keys)
return { (stopped or going_so) and 1 or 0, keys.letters }

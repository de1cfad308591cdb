#!lua flags=allow-oom
-- await_flow: have the end of a flow noted where somebody is about to block.
-- KEYS[1] flow prefix prefix of the flows, completed with the id
-- ARGV[1] id          str
-- Returns 1 if it has not ended yet
-- Errors  none of its own
-- Cost    O(1)
--@include clock
--@include outbox
--@include make_ready
--@include flow
local keys = { flow_prefix = KEYS[1], letters = {}, added = 0 }
local flow = flow_of(keys, ARGV[1])
local state = get(keys, flow, "state")
if not state or KEPT_MS[state] then
  return 0
end
put(flow, "awaited", "1")
write_flows(keys)
return 1

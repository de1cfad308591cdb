#!lua
-- start_flow: write a flow's state into its home queue and release its first steps.
-- KEYS[1] flow prefix prefix of the flows, completed with the id
-- KEYS[2] outbox      STREAM  letters: what is to be done in other slots, or later
-- KEYS[3] deadlines   ZSET    flow id -> when its time is over, unix ms
-- KEYS[4] job prefix  prefix of the records, completed with the message id
-- KEYS[5] events      STREAM
-- KEYS[6] control     HASH    present when the queue is paused, limited or closed
-- KEYS[7] wake        STREAM
-- KEYS[8..] ready     STREAM  one a level, lowest first
-- ARGV[1] id          str
-- ARGV[2] limit       int     ms for the whole flow; 0 for none
-- ARGV[3] roots       msgpack [number of a step that waits for none, ...]
-- ARGV[4] hooks       msgpack {success: [number, ...], failure: [...], finish: [...]}
-- ARGV[5] about       msgpack [field, value, ...] of the flow's hash
-- ARGV[6] messages    msgpack [number, message, ...] of those that are not there yet
-- ARGV[7] inner       0|1     a job starts it: a closed queue takes that
-- ARGV[8..] step      msgpack {kind, name, first, size, next, needs, policy, undo}
-- Returns the letters written, each {id, kind, to, body}; none when the flow is there already
-- Errors  BADARG a root without a definition; CLOSED; nothing written
-- Cost    O(steps + messages)
--@include clock
--@include fields
--@include wake
--@include record
--@include outbox
--@include make_ready
--@include flow
local limit = tonumber(ARGV[2])
local keys = {
  flow_prefix = KEYS[1], outbox = KEYS[2], job_prefix = KEYS[4], events = KEYS[5], letters = {}, added = 0,
  ready = function(level)
    level = math.min(level, #KEYS - 8)
    return KEYS[8 + level], level
  end,
}
local flow, roots, steps, counted = flow_of(keys, ARGV[1]), cmsgpack.unpack(ARGV[3]), #ARGV - 7, 0
for _, root in ipairs(roots) do
  if not ARGV[8 + root - 1] then
    return redis.error_reply("BADARG root " .. tostring(root))
  end
end
if get(keys, flow, "state") then
  return keys.letters
end
if ARGV[7] ~= "1" and redis.call("HEXISTS", KEYS[6], "closed") == 1 then
  return redis.error_reply("CLOSED")
end
for number = 1, steps do
  put(flow, tostring(number), ARGV[8 + number - 1])
  if step_of(keys, flow, number).kind == "step" then
    counted = counted + 1
  end
end
put(flow, "hooks", ARGV[4])
put(flow, "state", "running")
put(flow, "started", now_text())
put(flow, "open", "0")
put(flow, "left", tostring(counted))
put(flow, "steps", tostring(counted))
if limit > 0 then
  put(flow, "deadline", string.format("%d", now_ms() + limit))
  redis.call("ZADD", KEYS[3], now_ms() + limit, flow.id)
end
hset(part(keys, flow, ""), cmsgpack.unpack(ARGV[5]))
hset(part(keys, flow, ":messages"), cmsgpack.unpack(ARGV[6]))
redis.call("PERSIST", part(keys, flow, ":messages"))
for _, root in ipairs(roots) do
  release(keys, flow, root)
end
write_flows(keys)
signal_if_gated(KEYS[6], KEYS[7], keys.added)
return keys.letters

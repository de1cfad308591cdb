#!lua flags=allow-oom
-- begin_steps: note that messages of flows with this home are about to run, and find what each is given.
-- KEYS[1] flow prefix prefix of the flows, completed with the id
-- ARGV[1..] message   msgpack [flow id, number of the step, begin also when the flow was stopped,
--           first message, count, ... of those whose results it is given]
-- Returns for each {the flow's state or "", 1 if it may run, ms until the deadline or -1, results, each "" for none, ...}
-- Errors  none of its own
-- Cost    O(1) a message and a result
--@include clock
--@include outbox
--@include make_ready
--@include flow
local GIVEN_A_CALL = 5000
local keys, now = { flow_prefix = KEYS[1], letters = {}, added = 0 }, now_ms()

local function add_results(reply, flow, first, count)
  for from = first, first + count - 1, GIVEN_A_CALL do
    local names = {}
    for n = from, math.min(first + count, from + GIVEN_A_CALL) - 1 do
      names[#names + 1] = n
    end
    for _, result in ipairs(redis.call("HMGET", part(keys, flow, ":results"), unpack(names))) do
      reply[#reply + 1] = result or ""
    end
  end
end

local function begin(message)
  local flow, number = flow_of(keys, message[1]), message[2]
  want(keys, flow, { "state", "deadline", "reason", number .. ":started" })
  local state, deadline, left = get(keys, flow, "state"), get(keys, flow, "deadline"), -1
  if deadline then
    left = math.max(0, tonumber(deadline) - now)
    if left == 0 then
      stop(keys, flow, "timed_out")
      state = get(keys, flow, "state")
    end
  end
  local may_run = state and (message[3] or not was_stopped(keys, flow))
  local reply = { state or "", may_run and 1 or 0, left }
  if may_run then
    if not get(keys, flow, number .. ":started") then
      put(flow, number .. ":started", string.format("%d", now))
    end
    for i = 4, #message, 2 do
      add_results(reply, flow, message[i], message[i + 1])
    end
  end
  return reply
end

local replies = {}
for i = 1, #ARGV do
  replies[i] = begin(cmsgpack.unpack(ARGV[i]))
end
write_flows(keys)
return replies

-- Make a flow's message ready in this queue; one that is known is passed over. Returns how many it made.
-- `message` is {its place in the flow, queue, id, level, delay, recorded, {field, value, ...}}.
local function make_ready(keys, message)
  local record = keys.job_prefix .. message[3]
  if redis.call("HSETNX", record, "token", "flow") == 0 then
    return 0
  end
  redis.call("HSET", record, "flow", message[1])
  redis.call("XADD", keys.ready(message[4]), "*", unpack(message[7]))
  return 1
end

-- Make a flow's message ready in this queue. Returns how many it made: one that is known is passed over
-- where `keys.guarded` says that it may be told of twice.
-- `message` is {its place in the flow, queue, id, level, delay, recorded, {field, value, ...}}; with
-- `due`, unix ms, it is put aside until then instead. `given`, packed results, goes with it
-- unless it keeps no record: it can't be found when its flow is cancelled, so its worker has to ask.
-- `keys` has job_prefix, events and ready, which gives a level's stream and the level itself, or
-- scheduled and messages. Needs tell and field.
local function make_ready(keys, message, due, given)
  local record, id, fields, entry = keys.job_prefix .. message[3], message[3], message[7], ""
  if keys.guarded and redis.call("EXISTS", record) == 1 then
    return 0
  end
  local actor = field(fields, "actor")
  if due then
    if message[4] > 0 then
      fields[#fields + 1] = "level"
      fields[#fields + 1] = tostring(message[4])
    end
    redis.call("HSET", keys.messages, id, cmsgpack.pack(fields))
    redis.call("ZADD", keys.scheduled, due, id)
  else
    if given and message[6] then
      fields[#fields + 1] = "given"
      fields[#fields + 1] = given
    end
    local stream, level = keys.ready(message[4])
    entry = level .. ":" .. redis.call("XADD", stream, "*", unpack(fields))
  end
  if message[6] then
    redis.call("HSET", record, "token", "flow", "flow", message[1], "entry", entry)
    tell(keys.events, due and "scheduled" or "queued", id, actor)
  else
    redis.call("HSET", record, "token", "flow", "flow", message[1])
  end
  if due then
    redis.call("HSET", record, "due", string.format("%d", due))
  end
  return 1
end

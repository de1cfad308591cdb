-- The state of flows. A flow lies in the slot of its home queue: HASH <flow prefix><id>, and beside it
-- :messages (HASH, of those not sent yet), :ended (a bit for each message whose end was counted),
-- :results and :failed (HASH, by message), :undo (LIST, of what is to be undone), :over (STREAM, its end).
-- A step's definition is in the field of its number: {kind, first message, size, next steps, number of
-- steps it waits for, policy, undoing step}. Its state is in fields like 3:left.
-- `keys` has flow_prefix, outbox, letters, added, and where messages may be made ready at once what
-- make_ready wants. Needs now_ms, post and make_ready.
local SENT_AT_ONCE = 50
local SENT_A_LETTER = 100
local KEPT_MS = { completed = 86400000, failed = 604800000, cancelled = 604800000, timed_out = 604800000 }
local PARTS = { "", ":messages", ":ended", ":results", ":failed", ":undo", ":over" }

local function part(keys, flow, name)
  return keys.flow_prefix .. flow .. name
end

-- Flow, step and message of a place whose flow lies in this slot; false for another, and for none.
local function place_here(keys, place)
  if not place or string.sub(place, 1, #keys.flow_prefix) ~= keys.flow_prefix then
    return false
  end
  local flow, number, message = string.match(string.sub(place, #keys.flow_prefix + 1), "^(.*)/(%d+)/(%d+)$")
  return flow, tonumber(number), tonumber(message)
end

local function step_of(keys, flow, number)
  local packed = redis.call("HGET", part(keys, flow, ""), number)
  return packed and cmsgpack.unpack(packed)
end

-- Send messages that wait: into this queue at once where that is possible, else by letters.
-- `again` tells a second round of messages that are kept, for their ids.
local function send(keys, flow, first, count, again)
  local messages, names, parcels = part(keys, flow, ":messages"), {}, {}
  for n = first, first + count - 1 do
    names[#names + 1] = n
  end
  for _, packed in ipairs(redis.call("HMGET", messages, unpack(names))) do
    local message = packed and cmsgpack.unpack(packed)
    if message then
      if again and again > 1 then
        message[3] = message[3] .. "." .. again
        message[7][2] = message[3]
        packed = cmsgpack.pack(message)
      end
      if message[2] == "" and message[5] == 0 and keys.ready then
        keys.added = keys.added + make_ready(keys, message)
      else
        local parcel = parcels[message[2]] or {}
        parcels[message[2]] = parcel
        parcel[#parcel + 1] = packed
        if #parcel == SENT_A_LETTER then
          post(keys, "send", message[2], cmsgpack.pack(parcel))
          parcels[message[2]] = nil
        end
      end
    end
  end
  for queue, parcel in pairs(parcels) do
    post(keys, "send", queue, cmsgpack.pack(parcel))
  end
  if not again then
    redis.call("HDEL", messages, unpack(names))
  end
end

local function release(keys, flow, number)
  local step, key = step_of(keys, flow, number), part(keys, flow, "")
  local now = string.format("%d", now_ms())
  redis.call("HSET", key, number .. ":state", "running", number .. ":released", now, number .. ":left", step.size)
  redis.call("HINCRBY", key, "open", step.size)
  if step.size <= SENT_AT_ONCE then
    send(keys, flow, step.first, step.size)
  else
    post(keys, "release", flow, tostring(number))
  end
end

-- A step has ended: those that wait for it alone go.
local function pass_on(keys, flow, number, step)
  local key = part(keys, flow, "")
  if redis.call("HSETNX", key, number .. ":told", 1) == 0 then
    return
  end
  for _, following in ipairs(step.next) do
    if redis.call("HINCRBY", key, following .. ":needs", 1) == step_of(keys, flow, following).needs then
      release(keys, flow, following)
    end
  end
end

local function end_step(keys, flow, number, step)
  local key = part(keys, flow, "")
  local counts = redis.call("HMGET", key, number .. ":failed", number .. ":dropped")
  local whole = counts[2] and "cancelled" or "completed"
  if tonumber(counts[1] or 0) > 0 then
    whole = "failed"
  end
  redis.call("HSET", key, number .. ":state", whole, number .. ":ended", string.format("%d", now_ms()))
  redis.call("HINCRBY", key, "left", -1)
  if redis.call("HGET", key, "state") == "running" then
    pass_on(keys, flow, number, step)
  end
end

local function tell_hooks(keys, flow, state)
  local key = part(keys, flow, "")
  local hooks = cmsgpack.unpack(redis.call("HGET", key, "hooks"))
  local again = redis.call("HINCRBY", key, "ends", 1)
  for _, kind in ipairs({ state == "completed" and "success" or "failure", "finish" }) do
    for _, number in ipairs(hooks[kind]) do
      redis.call("HSET", key, number .. ":state", "running", number .. ":released", string.format("%d", now_ms()))
      send(keys, flow, step_of(keys, flow, number).first, 1, again)
    end
  end
end

-- When nothing of the flow is under way any more: undo the next thing, or end.
local function conclude(keys, flow)
  local key = part(keys, flow, "")
  local found = redis.call("HMGET", key, "state", "open", "left", "reason", "harmed")
  local state = found[1]
  if KEPT_MS[state] or tonumber(found[2]) > 0 or (state == "running" and tonumber(found[3]) > 0) then
    return
  end
  if state ~= "running" then
    local undo = redis.call("RPOP", part(keys, flow, ":undo"))
    if undo then
      local number, message = string.match(undo, "^(%d+)/(%d+)$")
      redis.call("HSET", key, "state", "compensating", number .. ":state", "running")
      redis.call("HSETNX", key, number .. ":released", string.format("%d", now_ms()))
      redis.call("HINCRBY", key, "open", 1)
      return send(keys, flow, tonumber(message), 1)
    end
  end
  local harmed = tonumber(found[5] or 0) > 0
  local final = state ~= "running" and found[4] or (harmed and "failed" or "completed")
  redis.call("HSET", key, "state", final, "finished", string.format("%d", now_ms()))
  tell_hooks(keys, flow, final)
  redis.call("XADD", part(keys, flow, ":over"), "MAXLEN", 1, "*", "state", final)
  for _, name in ipairs(PARTS) do
    redis.call("PEXPIRE", part(keys, flow, name), KEPT_MS[final])
  end
end

local function stop(keys, flow, reason)
  local key = part(keys, flow, "")
  if redis.call("HGET", key, "state") == "running" then
    redis.call("HSET", key, "state", "stopping", "reason", reason)
    return true
  end
  return false
end

-- Take back a failure, whose message was redriven. Returns whether that is still possible: not once
-- something is undone, or what comes after the step has been released without it.
local function reopen(keys, flow, number, step, message)
  local key = part(keys, flow, "")
  local found = redis.call("HMGET", key, "state", "reason", "undone", number .. ":state")
  if step.policy ~= "fail" or found[1] == "compensating" or found[2] ~= "failed" or found[3] then
    return false
  end
  if redis.call("HDEL", part(keys, flow, ":failed"), message) == 0 then
    return false
  end
  redis.call("SETBIT", part(keys, flow, ":ended"), message, 0)
  redis.call("HINCRBY", key, number .. ":failed", -1)
  redis.call("HINCRBY", key, number .. ":left", 1)
  redis.call("HINCRBY", key, "open", 1)
  if found[4] ~= "running" then
    redis.call("HSET", key, number .. ":state", "running")
    redis.call("HDEL", key, number .. ":ended")
    redis.call("HINCRBY", key, "left", 1)
  end
  if redis.call("HINCRBY", key, "stoppers", -1) > 0 then
    return true  -- other failures keep the flow from going on
  end
  redis.call("HSET", key, "state", "running")
  redis.call("HDEL", key, "reason", "finished", "failed_step", "error")
  redis.call("DEL", part(keys, flow, ":over"))
  for _, name in ipairs(PARTS) do
    redis.call("PERSIST", part(keys, flow, name))
  end
  for other = 1, tonumber(redis.call("HGET", key, "steps")) do
    local left = redis.call("HMGET", key, other .. ":state", other .. ":held")
    if left[1] == "completed" then  -- while the flow was stopped
      pass_on(keys, flow, other, step_of(keys, flow, other))
    elseif left[2] then
      redis.call("HDEL", key, other .. ":held")
      redis.call("HINCRBY", key, "open", left[2])
      post(keys, "release", flow, tostring(other))
    end
  end
  return true
end

local function was_stopped(keys, flow)
  local reason = redis.call("HGET", part(keys, flow, ""), "reason")
  return reason == "cancelled" or reason == "timed_out"
end

local function note_failure(keys, flow, number, step, message, error)
  local key = part(keys, flow, "")
  redis.call("HINCRBY", key, number .. ":failed", 1)
  redis.call("HSET", part(keys, flow, ":failed"), message, string.sub(error, 1, 500))
  if step.kind ~= "step" or step.policy == "ignore" then
    return
  end
  redis.call("HSETNX", key, "failed_step", number)
  redis.call("HSETNX", key, "error", string.sub(error, 1, 500))
  if step.policy == "continue" then
    redis.call("HINCRBY", key, "harmed", 1)
  else
    redis.call("HINCRBY", key, "stoppers", 1)
    stop(keys, flow, "failed")
  end
end

-- A message of the flow has ended, as completed or otherwise: count it once, however often it is told.
local function advance(keys, flow, number, message, state, result, error)
  local step, key = step_of(keys, flow, number), part(keys, flow, "")
  if not step then
    return  -- the flow is forgotten
  end
  local ended = part(keys, flow, ":ended")
  if redis.call("SETBIT", ended, message, 1) == 1 then
    if state ~= "completed" or not reopen(keys, flow, number, step, message) then
      return
    end
    redis.call("SETBIT", ended, message, 1)
  end
  if state == "completed" then
    if result ~= "" then
      redis.call("HSET", part(keys, flow, ":results"), message, result)
    end
    redis.call("HINCRBY", key, number .. ":done", 1)
    if step.undo > 0 then
      local undoing = step_of(keys, flow, step.undo)
      redis.call("RPUSH", part(keys, flow, ":undo"), step.undo .. "/" .. (undoing.first + message - step.first))
    end
  elseif state == "cancelled" and was_stopped(keys, flow) then
    redis.call("HINCRBY", key, number .. ":dropped", 1)
  else
    note_failure(keys, flow, number, step, message, error)
  end
  if step.kind == "hook" then
    redis.call("HSET", key, number .. ":state", state, number .. ":ended", string.format("%d", now_ms()))
    return
  end
  redis.call("HINCRBY", key, "open", -1)
  if step.kind == "undo" then
    local whole = redis.call("HGET", key, number .. ":failed") and "failed" or "completed"
    redis.call("HSET", key, number .. ":state", whole, number .. ":ended", string.format("%d", now_ms()), "undone", 1)
  elseif redis.call("HINCRBY", key, number .. ":left", -1) == 0 then
    end_step(keys, flow, number, step)
  end
  conclude(keys, flow)
end

-- The state of flows. A flow lies in the slot of its home queue: HASH <flow prefix><id>, and beside it
-- :messages (HASH, of those not sent yet), :ended (a bit for each message whose end was counted),
-- :results and :failed (HASH, by message), :undo (LIST, of what is to be undone), :over (STREAM, its end).
-- A step's definition is in the field of its number: {kind, first message, size, next steps, number of
-- steps it waits for, policy, undoing step}. Its state is in fields like 3:left.
--
-- A script reads each field once and writes what has changed by write_flows, which comes last.
-- `keys` has flow_prefix, outbox, letters, added, and where messages may be made ready at once what
-- make_ready wants. Needs now_ms, post and make_ready.
local SENT_AT_ONCE = 50
local SENT_A_LETTER = 100
local WRITTEN_A_CALL = 2000
local KEPT_MS = { completed = 86400000, failed = 604800000, cancelled = 604800000, timed_out = 604800000 }
local PARTS = { "", ":messages", ":ended", ":results", ":failed", ":undo", ":over" }
-- What a message is given goes with it when it is little: then its worker asks for nothing.
local GIVEN_BYTES = 4096

local function part(keys, flow, name)
  return keys.flow_prefix .. flow.id .. name
end

local function flow_of(keys, id)
  keys.flows = keys.flows or {}
  if not keys.flows[id] then
    keys.flows[id] = { id = id, steps = {}, got = {}, changed = {}, results = {}, kept = {} }
  end
  return keys.flows[id]
end

local function want(keys, flow, names)
  local missing = {}
  for _, name in ipairs(names) do
    if flow.got[name] == nil then
      missing[#missing + 1] = name
    end
  end
  if #missing > 0 then
    for i, value in ipairs(redis.call("HMGET", part(keys, flow, ""), unpack(missing))) do
      flow.got[missing[i]] = value
    end
  end
end

local function get(keys, flow, name)
  want(keys, flow, { name })
  return flow.got[name]
end

-- `value` is text, or false for a field that goes.
local function put(flow, name, value)
  flow.got[name] = value
  flow.changed[name] = true
end

local function add(keys, flow, name, number)
  local sum = tonumber(get(keys, flow, name) or 0) + number
  put(flow, name, string.format("%d", sum))
  return sum
end

local function now_text()
  return string.format("%d", now_ms())
end

local function hset(key, pairs_of)
  for from = 1, #pairs_of, WRITTEN_A_CALL do
    redis.call("HSET", key, unpack(pairs_of, from, math.min(#pairs_of, from + WRITTEN_A_CALL - 1)))
  end
end

local function write_flow(keys, flow)
  local set, gone = {}, {}
  for name in pairs(flow.changed) do
    if flow.got[name] then
      set[#set + 1] = name
      set[#set + 1] = flow.got[name]
    else
      gone[#gone + 1] = name
    end
  end
  hset(part(keys, flow, ""), set)
  if #gone > 0 then
    redis.call("HDEL", part(keys, flow, ""), unpack(gone))
  end
  hset(part(keys, flow, ":results"), flow.results)
  flow.changed, flow.results = {}, {}
end

local function write_flows(keys)
  for _, flow in pairs(keys.flows or {}) do
    write_flow(keys, flow)
  end
end

-- Flow, step and message of a place whose flow lies in this slot; false for another, and for none.
local function place_here(keys, place)
  if not place or string.sub(place, 1, #keys.flow_prefix) ~= keys.flow_prefix then
    return false
  end
  local id, number, message = string.match(string.sub(place, #keys.flow_prefix + 1), "^(.*)/(%d+)/(%d+)$")
  return flow_of(keys, id), tonumber(number), tonumber(message)
end

local function step_of(keys, flow, number)
  if not flow.steps[number] then
    local packed = get(keys, flow, tostring(number))
    flow.steps[number] = packed and cmsgpack.unpack(packed)
  end
  return flow.steps[number]
end

-- Send messages that wait: into this queue at once where that is possible, else by letters.
-- `again` counts the rounds of messages that are kept, for their ids; `given` goes with those that
-- are made ready here.
local function send(keys, flow, first, count, again, given)
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
        keys.added = keys.added + make_ready(keys, message, false, given)
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

-- Packed results of those that the step comes after; false when they have to be asked for, and for a
-- flow with a time limit, which whoever begins a step looks at.
local function given_to(keys, flow, step)
  if not step.given or get(keys, flow, "deadline") then
    return false
  end
  local values, bytes = {}, 0
  for i, message in ipairs(step.given) do
    values[i] = flow.kept[message] or redis.call("HGET", part(keys, flow, ":results"), message) or ""
    bytes = bytes + #values[i]
  end
  return bytes <= GIVEN_BYTES and cmsgpack.pack(values)
end

local function release(keys, flow, number)
  local step = step_of(keys, flow, number)
  put(flow, number .. ":state", "running")
  put(flow, number .. ":released", now_text())
  put(flow, number .. ":left", string.format("%d", step.size))
  add(keys, flow, "open", step.size)
  if step.size <= SENT_AT_ONCE then
    send(keys, flow, step.first, step.size, nil, given_to(keys, flow, step))
  else
    post(keys, "release", flow.id, tostring(number))
  end
end

-- A step has ended: those that wait for it alone go.
local function pass_on(keys, flow, number, step)
  if get(keys, flow, number .. ":told") then
    return
  end
  put(flow, number .. ":told", "1")
  for _, following in ipairs(step.next) do
    want(keys, flow, { tostring(following), following .. ":needs" })
    if add(keys, flow, following .. ":needs", 1) == step_of(keys, flow, following).needs then
      release(keys, flow, following)
    end
  end
end

local function end_step(keys, flow, number, step)
  local whole = get(keys, flow, number .. ":dropped") and "cancelled" or "completed"
  if tonumber(get(keys, flow, number .. ":failed") or 0) > 0 then
    whole = "failed"
  end
  put(flow, number .. ":state", whole)
  put(flow, number .. ":ended", now_text())
  add(keys, flow, "left", -1)
  if get(keys, flow, "state") == "running" then
    pass_on(keys, flow, number, step)
  end
end

local function tell_hooks(keys, flow, state)
  local hooks = cmsgpack.unpack(get(keys, flow, "hooks"))
  local again = add(keys, flow, "ends", 1)
  for _, kind in ipairs({ state == "completed" and "success" or "failure", "finish" }) do
    for _, number in ipairs(hooks[kind]) do
      put(flow, number .. ":state", "running")
      put(flow, number .. ":released", now_text())
      send(keys, flow, step_of(keys, flow, number).first, 1, again)
    end
  end
end

-- When nothing of the flow is under way any more: undo the next thing, or end.
local function conclude(keys, flow)
  local state = get(keys, flow, "state")
  local open, left = tonumber(get(keys, flow, "open")), tonumber(get(keys, flow, "left"))
  if KEPT_MS[state] or open > 0 or (state == "running" and left > 0) then
    return
  end
  if state ~= "running" then
    local undo = redis.call("RPOP", part(keys, flow, ":undo"))
    if undo then
      local number, message = string.match(undo, "^(%d+)/(%d+)$")
      put(flow, "state", "compensating")
      put(flow, number .. ":state", "running")
      put(flow, number .. ":released", get(keys, flow, number .. ":released") or now_text())
      add(keys, flow, "open", 1)
      return send(keys, flow, tonumber(message), 1)
    end
  end
  local final = get(keys, flow, "reason")
  if state == "running" then
    final = tonumber(get(keys, flow, "harmed") or 0) > 0 and "failed" or "completed"
  end
  put(flow, "state", final)
  put(flow, "finished", now_text())
  tell_hooks(keys, flow, final)
  if get(keys, flow, "awaited") then
    redis.call("XADD", part(keys, flow, ":over"), "MAXLEN", 1, "*", "state", final)
  end
  write_flow(keys, flow)
  for _, name in ipairs(PARTS) do
    redis.call("PEXPIRE", part(keys, flow, name), KEPT_MS[final])
  end
end

local function stop(keys, flow, reason)
  if get(keys, flow, "state") == "running" then
    put(flow, "state", "stopping")
    put(flow, "reason", reason)
    return true
  end
  return false
end

local function was_stopped(keys, flow)
  local reason = get(keys, flow, "reason")
  return reason == "cancelled" or reason == "timed_out"
end

-- Take back a failure, whose message was redriven. Returns whether that is still possible: not once
-- something is undone, or what comes after the step has been released without it.
local function reopen(keys, flow, number, step, message)
  local state = get(keys, flow, "state")
  if step.policy ~= "fail" or state == "compensating" or get(keys, flow, "reason") ~= "failed" or get(keys, flow, "undone") then
    return false
  end
  if redis.call("HDEL", part(keys, flow, ":failed"), message) == 0 then
    return false
  end
  redis.call("SETBIT", part(keys, flow, ":ended"), message, 0)
  add(keys, flow, number .. ":failed", -1)
  add(keys, flow, number .. ":left", 1)
  add(keys, flow, "open", 1)
  if get(keys, flow, number .. ":state") ~= "running" then
    put(flow, number .. ":state", "running")
    put(flow, number .. ":ended", false)
    add(keys, flow, "left", 1)
  end
  if add(keys, flow, "stoppers", -1) > 0 then
    return true  -- other failures keep the flow from going on
  end
  put(flow, "state", "running")
  for _, name in ipairs({ "reason", "finished", "failed_step", "error" }) do
    put(flow, name, false)
  end
  redis.call("DEL", part(keys, flow, ":over"))
  for _, name in ipairs(PARTS) do
    redis.call("PERSIST", part(keys, flow, name))
  end
  for other = 1, tonumber(get(keys, flow, "steps")) do
    local ended = get(keys, flow, other .. ":state")
    if ended == "completed" or ended == "failed" then  -- while the flow was stopped, and did not stop it
      pass_on(keys, flow, other, step_of(keys, flow, other))
    elseif get(keys, flow, other .. ":held") then
      add(keys, flow, "open", tonumber(get(keys, flow, other .. ":held")))
      put(flow, other .. ":held", false)
      post(keys, "release", flow.id, tostring(other))
    end
  end
  return true
end

local function note_failure(keys, flow, number, step, message, error)
  local why = string.sub(error, 1, 500)
  add(keys, flow, number .. ":failed", 1)
  redis.call("HSET", part(keys, flow, ":failed"), message, why)
  if step.kind ~= "step" or step.policy == "ignore" then
    return
  end
  if not get(keys, flow, "failed_step") then
    put(flow, "failed_step", tostring(number))
    put(flow, "error", why)
  end
  if step.policy == "continue" then
    add(keys, flow, "harmed", 1)
  else
    add(keys, flow, "stoppers", 1)
    stop(keys, flow, "failed")
  end
end

local function note_success(keys, flow, number, step, message, result)
  if result ~= "" and step.kind == "step" then
    flow.results[#flow.results + 1] = message
    flow.results[#flow.results + 1] = result
    flow.kept[message] = result
  end
  add(keys, flow, number .. ":done", 1)
  if step.undo > 0 then
    local undoing = step_of(keys, flow, step.undo)
    redis.call("RPUSH", part(keys, flow, ":undo"), step.undo .. "/" .. (undoing.first + message - step.first))
  end
end

-- Of one that undoes or was sent at the end.
local function note_end(keys, flow, number)
  local failed = tonumber(get(keys, flow, number .. ":failed") or 0) > 0
  put(flow, number .. ":state", failed and "failed" or "completed")
  put(flow, number .. ":ended", now_text())
end

-- One of those has failed before, and has completed since: its letter was redriven.
local function take_back_failure(keys, flow, number, message)
  if redis.call("HDEL", part(keys, flow, ":failed"), message) == 1 then
    add(keys, flow, number .. ":failed", -1)
    add(keys, flow, number .. ":done", 1)
    note_end(keys, flow, number)
  end
end

-- A message of the flow has ended, as completed or otherwise: count it once, however often it is told.
-- `started`, unix ms, is when its run began, if that is known.
local function advance(keys, flow, number, message, state, result, error, started)
  want(keys, flow, {
    tostring(number), "state", "open", "left", number .. ":left", number .. ":done", number .. ":failed",
    number .. ":dropped", number .. ":told", number .. ":started", "deadline", "awaited", "reason",
  })
  local step, ended = step_of(keys, flow, number), part(keys, flow, ":ended")
  if not step then
    return  -- the flow is forgotten
  end
  if redis.call("SETBIT", ended, message, 1) == 1 then
    if state == "completed" and step.kind ~= "step" then
      return take_back_failure(keys, flow, number, message)
    elseif state ~= "completed" or not reopen(keys, flow, number, step, message) then
      return
    end
    redis.call("SETBIT", ended, message, 1)
  end
  if started and not get(keys, flow, number .. ":started") then
    put(flow, number .. ":started", started)
  end
  if state == "completed" then
    note_success(keys, flow, number, step, message, result)
  elseif state == "cancelled" and was_stopped(keys, flow) then
    add(keys, flow, number .. ":dropped", 1)
  else
    note_failure(keys, flow, number, step, message, error)
  end
  if step.kind == "hook" then
    note_end(keys, flow, number)
    for _, name in ipairs({ ":ended", ":failed" }) do  -- the flow has ended, and these may be new
      redis.call("PEXPIRE", part(keys, flow, name), KEPT_MS[get(keys, flow, "state")] or KEPT_MS.failed)
    end
    return
  end
  add(keys, flow, "open", -1)
  if step.kind == "undo" then
    note_end(keys, flow, number)
    put(flow, "undone", "1")
  elseif add(keys, flow, number .. ":left", -1) == 0 then
    end_step(keys, flow, number, step)
  end
  conclude(keys, flow)
end

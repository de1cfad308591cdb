-- Give entries whose delivery ended unsettled to ~released, or end them: those that were delivered
-- too often are buried, those that somebody wants cancelled go.
-- An entry is as XPENDING has it: its id, whose it was, idle time, delivery count.
-- `keys` has ready, dead, dead_messages, dedup, lapsing, job_prefix, events, dead_records, cancelled, outbox and
-- letters.
-- Somebody is told of the dead of the actors in `told_of`, a set, which no script can do: what is to
-- be buried of theirs is left to `spare`, called with an entry and its fields.
-- Needs now_ms, bury, held_key, finish, field, tell_flow and note_lost. Returns the numbers released and ended.
local function hand_back(keys, entries, max_deliveries, level, told_of, spare)
  local released, ended, now = 0, 0, now_ms()
  local job_prefix = keys.job_prefix

  local function finish_as(state, recent, message, fields, deliveries, reason, error)
    local facts = { "actor", field(fields, "actor") or "", "queued", field(fields, "at") or "" }
    facts[5], facts[6] = "deliveries", tostring(deliveries)
    if error then
      facts[7], facts[8] = "error", error
    end
    local places = {
      dedup = keys.dedup, lapsing = keys.lapsing, job_prefix = job_prefix, events = keys.events, recent = recent,
    }
    tell_flow(keys, finish(places, message, state, now, facts, reason, error), state, "", error or state)
  end

  for _, entry in ipairs(entries) do
    local id, deliveries = entry[1], entry[4]
    local found = redis.call("XRANGE", keys.ready, id, id)[1]
    local message = found and field(found[2], "id")
    message = message ~= "" and message
    local name = message or (level .. ":" .. id)
    local prior = message and redis.pcall("HMGET", job_prefix .. message, "unsettled", "cancel", "flow") or {}
    if prior.err then  -- a record of another type tells nothing, and hinders no end
      message, prior = false, {}
    end
    if message and entry[2] ~= "~released" then
      note_lost(job_prefix .. message, now, entry[2])
    end
    deliveries = deliveries + (tonumber(prior[1] or "") or 0)  -- those of before it was parked
    local cancelled = prior[2]
    if not found then
      redis.call("XACK", keys.ready, "workers", id)  -- deleted by hand: nothing left to run
    elseif message and not cancelled and deliveries >= max_deliveries and told_of[field(found[2], "actor") or ""] then
      spare(entry, found[2])
    elseif cancelled or deliveries >= max_deliveries then
      if cancelled then
        finish_as("cancelled", keys.cancelled, message, found[2], deliveries)
      else
        local evidence = {
          reason = "max_deliveries",
          error = "delivered " .. deliveries .. " times and never settled: it may kill its worker",
          deliveries = deliveries,
          level = level,
          dedup = message and held_key(job_prefix .. message) or "",
          actor = field(found[2], "actor") or "",
          lost = message and redis.call("HGET", job_prefix .. message, "lost") or "",
          flow = prior[3],
        }
        bury(keys.dead, keys.dead_messages, name, id, now, evidence, found[2])
        if message then
          finish_as("dead", keys.dead_records, message, found[2], deliveries, evidence.reason, evidence.error)
        end
      end
      redis.call("XACK", keys.ready, "workers", id)
      redis.call("XDEL", keys.ready, id)
      ended = ended + 1
    else
      redis.call("XCLAIM", keys.ready, "workers", "~released", 0, id, "JUSTID")
      released = released + 1
    end
  end
  return released, ended
end

-- Give entries whose delivery ended unsettled to ~released, or bury those that were delivered too often.
-- An entry is as XPENDING has it: its id, whose it was, idle time, delivery count.
-- Needs now_ms, bury, finish, field and note_lost. Returns the numbers released and buried.
local function hand_back(keys, entries, max_deliveries, level)
  local released, buried = 0, 0
  for _, entry in ipairs(entries) do
    local id, deliveries = entry[1], entry[4]
    local found = redis.call("XRANGE", keys.ready, id, id)[1]
    local message, job_prefix = found and field(found[2], "id"), keys.job_prefix
    message = message ~= "" and message
    if message and entry[2] ~= "~released" then
      note_lost(job_prefix .. message, now_ms(), entry[2])
    end
    if message then  -- those of before it was parked
      deliveries = deliveries + tonumber(redis.call("HGET", job_prefix .. message, "unsettled") or 0)
    end
    if not found then
      redis.call("XACK", keys.ready, "workers", id)  -- deleted by hand: nothing left to run
    elseif deliveries >= max_deliveries then
      local evidence = {
        reason = "max_deliveries",
        error = "delivered " .. deliveries .. " times and never settled: it may kill its worker",
        deliveries = deliveries,
        level = level,
        dedup = message and redis.call("HGET", job_prefix .. message, "dedup") or "",
        actor = field(found[2], "actor") or "",
        lost = message and redis.call("HGET", job_prefix .. message, "lost") or "",
      }
      bury(keys.dead, keys.dead_messages, message or (level .. ":" .. id), id, now_ms(), evidence, found[2])
      if message then
        finish(keys.dedup, job_prefix .. message, message, "dead")
      end
      redis.call("XACK", keys.ready, "workers", id)
      redis.call("XDEL", keys.ready, id)
      buried = buried + 1
    else
      redis.call("XCLAIM", keys.ready, "workers", "~released", 0, id, "JUSTID")
      released = released + 1
    end
  end
  return released, buried
end

-- The deduplication key that a message holds, or "". Its end has freed the key, though the record still
-- names it: a copy that dies after that is no holder, and its redrive must not become one.
local function held_key(record)
  local prior = redis.call("HMGET", record, "state", "dedup")
  return not prior[1] and prior[2] or ""
end

-- Move a message to the dead letters; the caller removes the source afterwards. Returns its id there.
-- The value is one msgpack array of strings: eleven pairs of evidence, then the entry's fields.
-- `evidence` has reason, error, deliveries, level, dedup (the message's deduplication key or "") and,
-- where they are known, actor, error_type, trail (traceback and attempts), lost (see lost.lua) and flow
-- (the message's place in one). Needs field.
local function bury(dead, messages, id, entry, now, evidence, fields)
  local packed = {
    "reason", evidence.reason,
    "error", evidence.error,
    "died_at", string.format("%d", now),
    "deliveries", tostring(evidence.deliveries),
    "level", tostring(evidence.level),
    "dedup", evidence.dedup,
    "actor", evidence.actor or "",
    "error_type", evidence.error_type or "",
    "trail", evidence.trail or "",
    "lost", evidence.lost or "",
    "queue", "",  -- to which it belongs, when it lies in another one's dead letters: adopt.lua
  }
  for _, part in ipairs(fields) do
    packed[#packed + 1] = part
  end
  if evidence.flow and field(fields, "sealed") and not field(fields, "flow") then
    packed[#packed + 1] = "flow"  -- whoever redrives it can't read it there, and its record may be gone
    packed[#packed + 1] = evidence.flow
  end
  local key, copies = id, 0
  while redis.call("HEXISTS", messages, key) == 1 do  -- several entries of one id died: keep all
    copies = copies + 1
    key = id .. ":" .. entry .. (copies > 1 and ":" .. copies or "")
  end
  redis.call("HSET", messages, key, cmsgpack.pack(packed))
  redis.call("ZADD", dead, now, key)
  return key
end

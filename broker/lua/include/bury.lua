-- Move a message to the dead letters; the caller removes the source afterwards.
-- The value is one msgpack array of strings: five evidence pairs, then the entry's fields.
local function bury(dead, messages, id, entry, now, reason, error, deliveries, level, fields)
  local packed = {
    "reason", reason,
    "error", error,
    "died_at", string.format("%d", now),
    "deliveries", tostring(deliveries),
    "level", tostring(level),
  }
  for _, part in ipairs(fields) do
    packed[#packed + 1] = part
  end
  local key = id
  if redis.call("HEXISTS", messages, key) == 1 then
    key = id .. ":" .. entry  -- two entries of one id died: keep both
  end
  redis.call("HSET", messages, key, cmsgpack.pack(packed))
  redis.call("ZADD", dead, now, key)
end

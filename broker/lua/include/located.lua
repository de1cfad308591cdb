-- Where a message lies by what its record has noted: its stream, the entry's id, the entry and its
-- delivery as XPENDING has it. Nothing when it is not there; no delivery when nobody has it.
-- `ready` gives a level's stream.
local function located(noted, ready)
  local level, id = string.match(noted or "", "^(%d+):(.+)$")
  local stream = level and ready(tonumber(level))
  local entry = stream and redis.call("XRANGE", stream, id, id)[1]
  if not entry then
    return
  end
  local pending = redis.pcall("XPENDING", stream, "workers", id, id, 1)
  return stream, id, entry, not pending.err and pending[1]
end

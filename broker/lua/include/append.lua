-- Make an admitted message ready, and note in its record where it lies, if one is kept.
-- `keys` has job_prefix and events. Needs tell and field.
local function append(keys, stream, level, id, recorded, fields)
  local entry = redis.call("XADD", stream, "*", unpack(fields))
  if recorded then
    redis.call("HSET", keys.job_prefix .. id, "entry", level .. ":" .. entry)
    tell(keys.events, "queued", id, field(fields, "actor"))
  end
end

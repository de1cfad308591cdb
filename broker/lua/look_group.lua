#!lua flags=no-writes
-- look_group: how far a consumer group has come in a stream of the application's.
-- KEYS[1] events      STREAM
-- ARGV[1] group       str
-- Returns {now, lag or -1, pending, last handed over, first pending or "", first that waits or ""};
--         an empty array if there is no such stream or group; times unix ms
-- Errors  none of its own
-- Cost    O(G), G groups of the stream
--@include clock
--@include fields
local groups = redis.pcall("XINFO", "GROUPS", KEYS[1])
if groups.err then
  return {}
end
for _, group in ipairs(groups) do
  if field(group, "name") == ARGV[1] then
    local last = field(group, "last-delivered-id")
    local held = redis.call("XPENDING", KEYS[1], ARGV[1])
    local waiting = redis.call("XRANGE", KEYS[1], "(" .. last, "+", "COUNT", 1)[1]
    return {
      string.format("%d", now_ms()),
      field(group, "lag") or -1,
      held[1],
      last,
      held[2] or "",
      waiting and waiting[1] or "",
    }
  end
end
return {}
